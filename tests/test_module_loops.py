"""Models grow in the middle of training loops as users write them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nasframe


class Classifier(nn.Module):
    """A small network for images of 8 x 8 pixels, with whatever a training loop has to deal with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu().mean((2, 3))
        return self.head(self.drop(x))


def digits(size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of scikit-learn's handwritten digits, without end."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    while True:
        for order in torch.randperm(len(x)).split(size)[:-1]:
            yield x[order], y[order]


def accuracy(model: nn.Module) -> float:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).double().mean())


def test_a_plain_loop(tmp_path: Path) -> None:
    """A model is widened in the middle of a loop with a schedule, a gradient scaler and an average, and rebuilt at its end.

    The loss does not jump at the growth, the learning rate follows its schedule, and the grown model learns on.
    """
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=121)
    scaler = torch.amp.GradScaler("cpu")
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    losses = []
    for step, (x, y) in zip(range(120), digits(), strict=False):
        if step == 60:
            average = ema.eval()(x)
            change = nasframe.widen(model, "conv1", to=6, example=(x,), skew=0.2)
            model = change.model
            change.follow(optimizer)
            change.follow(ema)
            change.save(tmp_path / "lineage.json")
            assert torch.allclose(ema(x), average, atol=1e-5)
        loss = nn.functional.cross_entropy(model.train()(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        ema.update_parameters(model)
        losses.append(float(loss.detach()))

    assert model.conv1.out_channels == ema.module.conv1.out_channels == 6
    assert max(losses[60:65]) < max(losses[50:60]) * 1.2  # no jump
    assert sum(losses[-10:]) < sum(losses[50:60])
    assert optimizer.param_groups[0]["lr"] < 1e-6  # the schedule has reached its end
    # copies with uneven shares have become different units
    copies = change.map["conv1.weight"].index[0].tolist()
    first, second = [i for i, row in enumerate(copies) if row == copies[-1]][:2]
    assert not torch.allclose(model.conv1.weight[first], model.conv1.weight[second], rtol=1e-3)

    again = nasframe.rebuild(Classifier(), tmp_path / "lineage.json")
    again.load_state_dict(model.state_dict())
    assert accuracy(again) == accuracy(model) > 0.4


class LanguageModel(nn.Module):
    """A model with keyword arguments that returns a dictionary with a loss, as those of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 11, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        h = self.embed(input_ids)
        h = h + self.down(nn.functional.gelu(self.up(self.norm(h))))
        logits = self.head(h)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Trainer:
    """The part of a trainer in the style of Hugging Face's that callbacks see."""

    def __init__(self, model: nn.Module, batches: Iterator[dict[str, Tensor]], callbacks: list[Any]) -> None:
        self.model, self.batches, self.callbacks, self.log = model, batches, callbacks, []
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.02)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / 100)
        self.global_step = 0

    def train(self, steps: int) -> None:
        for inputs in (next(self.batches) for _ in range(steps)):
            loss = self.model(**inputs)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.model.zero_grad()
            self.log.append(float(loss.detach()))
            self.global_step += 1
            for callback in self.callbacks:
                callback.on_step_end(self, inputs)


class GrowAtStep:
    """A callback that widens a layer of the trainer's model after some steps."""

    def __init__(self, step: int, at: str, to: int) -> None:
        self.step, self.at, self.to = step, at, to

    def on_step_end(self, trainer: Trainer, inputs: dict[str, Tensor]) -> None:
        if trainer.global_step == self.step:
            self.change = nasframe.widen(trainer.model, self.at, to=self.to, example=inputs, form="zero")
            trainer.model = self.change.model
            self.change.follow(trainer.optimizer)


def texts() -> Iterator[dict[str, Tensor]]:
    """Yield batches of counting sequences, of which the next token is known."""
    while True:
        tokens = (torch.randint(0, 11, (16, 1)) + torch.arange(9)) % 11
        yield {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}


def test_a_loop_in_the_style_of_a_trainer() -> None:
    """A callback widens a language model: the groups with and without weight decay stay, and the loss falls on."""
    torch.manual_seed(0)
    grow = GrowAtStep(30, "up", 20)
    trainer = Trainer(LanguageModel(), texts(), [grow])
    trainer.train(60)

    assert trainer.model.up.out_features == trainer.model.down.in_features == 20
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups]
    assert groups[1] == {"norm.weight", "norm.bias", "up.bias", "down.bias"}
    assert groups[0] == {*names.values()} - groups[1]
    assert trainer.log[30] < trainer.log[25] < trainer.log[0]
    assert trainer.log[-1] < trainer.log[30]
    assert grow.change.distances.eval < 1e-5


def test_a_lightning_callback() -> None:
    """A callback of Lightning widens a model at the end of an epoch, and its trainer trains on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of foreign code at its import
        lightning = pytest.importorskip("lightning", reason="lightning is not installed; the callback is checked where it is")

    class GrowAtEpoch(lightning.Callback):
        def __init__(self, epoch: int, at: str, to: int) -> None:
            self.epoch, self.at, self.to = epoch, at, to

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == self.epoch:
                change = nasframe.widen(pl_module.net, self.at, to=self.to, example=(pl_module.example_input_array,))
                pl_module.net = change.model
                for optimizer in trainer.optimizers:
                    change.follow(optimizer)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.log_scale, self.losses = Classifier(), nn.Parameter(torch.zeros(())), []
            self.example_input_array = torch.rand(8, 1, 8, 8)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]) * self.log_scale.exp(), batch[1])
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]

    torch.manual_seed(0)
    stream = digits()
    data = [next(stream) for _ in range(20)]
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[GrowAtEpoch(0, "conv1", 6)],
        )
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))

    assert module.net.conv1.out_channels == 6
    assert {id(p) for p in trainer.optimizers[0].param_groups[0]["params"]} == {id(p) for p in module.parameters()}
    assert module.losses[20] < module.losses[0]
    assert module.losses[-1] < module.losses[20]
