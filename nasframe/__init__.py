"""nasframe grows and searches a neural network's architecture while it trains.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import nasframe`, the command
line and the pytest plugin do not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
