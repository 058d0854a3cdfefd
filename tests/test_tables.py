"""Reading tables: numbers in every form of CSV, columns of times, and files that cannot be read."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import time
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_forecasting import Forecasting, tables
from nasframe_forecasting.series import Series, read
from nasframe_forecasting.tables import Format
from series_files import CPU, EXACT, cases, dates, drawn, noise, text, written
from torch import Tensor

from nasframe.errors import DataError

NAMES = st.text('ab é,"', min_size=1).map(str.strip).filter(bool)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)

#: common forms of times, by the name of the program or the region that writes them
FORMS: dict[str, Callable[[datetime], str]] = {
    "ISO 8601 days": lambda t: t.strftime("%Y-%m-%d"),
    "ISO 8601": lambda t: t.isoformat(),
    "pandas": str,
    "pandas with a UTC offset": lambda t: f"{t}+01:00",
    "BigQuery": lambda t: f"{t} UTC",
    "months": lambda t: t.strftime("%Y-%m"),
    "German": lambda t: t.strftime("%d.%m.%Y %H:%M"),
    "British": lambda t: t.strftime("%d/%m/%Y"),
    "American": lambda t: t.strftime("%m/%d/%Y %I:%M %p"),
    "Excel": lambda t: f"{t.month}/{t.day}/{t:%y}",
    "Japanese": lambda t: t.strftime("%Y/%m/%d %H:%M:%S"),
    "MetaTrader": lambda t: t.strftime("%Y.%m.%d"),
    "month names": lambda t: t.strftime("%d-%b-%Y"),
}


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], tuple[str, ...], list[list[float]]]:
    """A table in any form that can be read: the file, how to read it, and the names and rows that are expected."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    rows = draw(st.lists(st.tuples(*(FLOATS for _ in names)), min_size=1, max_size=5))
    form = Format(
        draw(st.sampled_from(",;\t|")), draw(st.sampled_from(".,")), draw(st.sampled_from(["utf-8", "latin-1", "utf-16"]))
    )
    space = draw(st.sampled_from(["", " "]))
    cells = [names, *([f"{space}{value!r}{space}".replace(".", form.decimal) for value in row] for row in rows)]
    reading: dict[str, Any] = {"format": form}
    if draw(st.booleans()):
        head = draw(st.sampled_from(["date", "Date", "day", "timestamp"]))
        reading |= {"date": head} if draw(st.booleans()) else {}
        place = draw(st.integers(0, len(names)))
        times = map(FORMS[draw(st.sampled_from(sorted(FORMS)))], months(len(rows)))
        cells = [[*row[:place], day, *row[place:]] for row, day in zip(cells, [head, *times], strict=True)]
    if draw(st.booleans()):
        cells = [[index, *row] for row, index in zip(cells, ["", *map(str, range(len(rows)))], strict=True)]
    chosen = names
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        reading["columns"] = tuple(chosen)
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    content = written(cells, form.encoding, delimiter=form.delimiter, lineterminator=ending, quoting=quoting)
    if form.encoding == "utf-8":
        content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content + draw(st.integers(0, 3)) * ending.encode()
    pack = draw(st.sampled_from([bytes, gzip.compress]))
    return pack(content), reading, tuple(chosen), [[row[names.index(name)] for name in chosen] for row in rows]


def months(size: int) -> list[datetime]:
    """So many first days of the months from 2020 on."""
    return [datetime(2020 + month // 12, month % 12 + 1, 1) for month in range(size)]


@drawn
@given(files())
def test_reading_gives_what_was_written(file: tuple[bytes, dict[str, Any], tuple[str, ...], list[list[float]]]) -> None:
    """Numbers come back to the last bit, of the chosen columns in their order, without times and index, in every form."""
    content, reading, names, rows = file
    found = read(content, "written", **reading)

    assert found.rows.tolist() == rows
    assert found.names == names
    assert found.numbers == tuple(range(2, len(rows) + 2))


@drawn
@given(cases(), st.data())
def test_rows_with_an_empty_cell_are_dropped_whole(case: tuple[Tensor, int], data: st.DataObject) -> None:
    """The other rows are returned as they are, with their numbers; empty cells of a column that is not read do not matter."""
    rows, _ = case
    lacking = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    header, *lines = text(rows).decode().splitlines()
    full = [f"{line},{'' if t % 2 else 1}" for t, line in enumerate(lines)]
    holed = [line.replace(f",{rows[t, 0].item()!r},", ", ,") if t in lacking else line for t, line in enumerate(full)]
    content = "\n".join([f"{header},unread", *holed]).encode()
    names = tuple(f"c{column}" for column in range(rows.shape[1]))
    kept = [t for t in range(len(rows)) if t not in lacking]
    found = read(content, "holed", columns=names, drop=True)

    assert torch.equal(found.rows, rows[kept])
    assert found.numbers == tuple(t + 2 for t in kept)


@drawn
@given(cases(), st.data())
def test_log_returns_are_numpys(case: tuple[Tensor, int], data: st.DataObject) -> None:
    """They are log(p[t] / p[t-1]) over consecutive rows, of those that remain where rows were dropped."""
    prices = case[0].exp()
    lacking = data.draw(st.integers(0, len(prices) - 1))
    lines = text(prices).decode().splitlines()
    lines[lacking + 1] = f"{dates(len(prices))[lacking]}{',' * prices.shape[1]}"
    remaining = np.delete(prices.numpy(), lacking, 0)
    whole, rest = (read(content, "prices", returns=True, drop=True) for content in (text(prices), "\n".join(lines).encode()))

    for found, expected in ((whole, prices.numpy()), (rest, remaining)):
        np.testing.assert_allclose(found.rows.numpy(), np.log(expected[1:] / expected[:-1]), rtol=1e-15, atol=0)
    assert whole.numbers == tuple(range(3, len(prices) + 2))


# ---------------------------------------------------------------------------------------------------- times and indexes


def timed(times: list[str], name: str = "t") -> bytes:
    """A file with a column of times and a column of numbers."""
    return written([[name, "a"], *([cell, str(row)] for row, cell in enumerate(times))])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["t", "timestamp", "Datum", ""])
def test_times_are_recognised_and_reported(form: str, name: str) -> None:
    """A column of times in a common form is not forecast and a note says so, whatever its name; its order is checked."""
    times = [FORMS[form](moment) for moment in months(30)]
    found = read(timed(times, name), "f.csv")

    assert found.names == ("a",)
    assert found.notes == (
        f"f.csv: {f'column {name!r}' if name else 'column 1, which has no name,'} holds times and is not forecast",
    )
    with pytest.raises(DataError, match=rf"f\.csv, column {repr(name) if name else '1'}, row 3 is .*, back in time"):
        read(timed(times[::-1], name), "f.csv")
    with pytest.raises(DataError, match=r"row 4 is .*, the same time twice"):
        read(timed([*times[:2], times[1]], name), "f.csv")


@pytest.mark.parametrize("name", ["time", "Timestamp", "year"])
def test_times_in_numbers_are_recognised_by_name_and_order(name: str) -> None:
    """Years or seconds in a column of such a name are times if they always rise, refused if they always fall, numbers otherwise."""
    assert read(timed(["1600000000", "1600000060", "1600000180"], name), "f.csv").names == ("a",)
    with pytest.raises(DataError, match="back in time"):
        read(timed(["3", "2", "1"], name), "f.csv")
    assert read(timed(["1", "3", "2"], name), "f.csv").names == (name, "a")
    assert read(timed(["1", "2", "3"], name), "f.csv", columns=(name,)).names == (name,), "the user says that it is a number"
    assert read(timed(["1", "2", "3"], "b"), "f.csv").names == ("b", "a")


def test_time_zones_are_compared() -> None:
    """Times with UTC offsets ascend if their instants do, and a column that mixes times with and without one is refused."""
    assert read(timed(["2020-10-25 02:30:00+02:00", "2020-10-25 02:00:00+01:00"]), "f.csv").rows.tolist() == [[0.0], [1.0]]
    with pytest.raises(DataError, match="back in time"):
        read(timed(["2020-10-25 02:30:00+00:00", "2020-10-25 03:00:00+02:00"]), "f.csv")
    with pytest.raises(DataError, match="of which one has a UTC offset"):
        read(timed(["2020-10-25 02:30:00+00:00", "2020-10-25 03:00:00"]), "f.csv")
    with pytest.raises(DataError, match=r"the same time twice; .* \(where clocks are set back, with UTC offsets\)"):
        read(timed(["2020-10-25 02:00", "2020-10-25 02:00"]), "f.csv")


def test_ambiguous_days_are_in_order_if_one_form_is() -> None:
    """Days before months and months before days are both read; what is in order in neither form is refused."""
    assert read(timed(["31/01/2020", "01/02/2020", "02/02/2020"]), "f.csv").notes
    assert read(timed(["01/31/2020", "02/01/2020", "02/02/2020"]), "f.csv").notes
    with pytest.raises(DataError, match="row 4 is '02/01/2020' after '01/02/2020' in row 3, back in time"):
        read(timed(["31/01/2020", "01/02/2020", "02/01/2020"]), "f.csv")


def test_days_and_times_of_day_in_two_columns_are_one_time() -> None:
    """Several rows of one day are in order if their times of day are."""
    cells = [["Date", "Time", "a"], ["16/12/2006", "17:24:00", "1"], ["16/12/2006", "17:25:00", "2"]]
    found = read(written(cells), "f.csv")

    assert found.names == ("a",)
    assert len(found.notes) == 2
    with pytest.raises(DataError, match="row 3 is '16/12/2006 17:24:00' after '16/12/2006 17:25:00' in row 2, back in time"):
        read(written([cells[0], cells[2], cells[1]]), "f.csv")


def test_the_order_of_one_column_counts() -> None:
    """Other columns of times are reported, but need no order; `date` says which one counts."""
    content = written([["start", "end", "a"], ["2020-01-01", "2020-02-01", "1"], ["2020-01-02", "2020-01-31", "2"]])

    assert read(content, "f.csv").names == ("a",)
    assert len(read(content, "f.csv").notes) == 2
    assert len(read(content, "f.csv", date="start").notes) == 1, "the user knows the other"
    with pytest.raises(DataError, match="column 'end', row 3 is '2020-01-31' after '2020-02-01' in row 2, back in time"):
        read(content, "f.csv", date="end")


@pytest.mark.parametrize("index", [["0", "1", "2"], ["2", "0", "1"], ["a", "b", "c"]])
@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_an_index_is_recognised_and_reported(index: list[str], name: str) -> None:
    """The first column, without a name as pandas writes it, is an index, and not forecast unless it is chosen."""
    found = read(timed(index, name), "f.csv")

    assert found.names == ("a",)
    assert found.notes == (
        f"f.csv: column {f'{name!r}' if name else '1, which has no name,'} holds an index and is not forecast",
    )
    if name and index[0] == "0":
        assert read(timed(index, name), "f.csv", columns=(name,)).names == (name,)


def test_pandas_counts_columns_without_names() -> None:
    """The names 0, 1, 2 are names; other numbers alone are a first row of values, and so are times."""
    assert read(b",0,1\n0,5,6\n1,7,9\n", "f.csv").names == ("0", "1")
    assert read(b"0,1\n5,6\n7,9\n", "f.csv").names == ("0", "1")
    assert read(b"date,0,1,OT\n1990/1/1 0:00,5,6,7\n", "f.csv").names == ("0", "1", "OT")
    with pytest.raises(DataError, match="row 1 holds only numbers"):
        read(b"3,4\n5,6\n", "f.csv")
    with pytest.raises(DataError, match="row 1, column 1 is '2020-01-01', which is no name"):
        read(b"2020-01-01,4\n2020-01-02,6\n", "f.csv")


def test_a_delimiter_at_the_end_of_each_line_is_no_column() -> None:
    """An empty column without a name is left out; with a value it is refused."""
    assert read(b"a,b,\n1,2,\n3,4,\n", "f.csv").names == ("a", "b")
    with pytest.raises(DataError, match="row 1, column 3 is '', which is no name"):
        read(b"a,b,\n1,2,\n3,4,5\n", "f.csv")


@drawn
@given(cases(), st.integers(1, 10**6))
def test_times_change_nothing_but_their_order(case: tuple[Tensor, int], days: int) -> None:
    """The rows are the same to the bit with other times, and with no times at all."""
    rows, _ = case
    header, *lines = [line.split(",", 1) for line in text(rows).decode().splitlines()]
    moved = [f"{datetime.fromisoformat(day) + timedelta(days)},{values}" for day, values in lines]
    bare = [header[1], *(values for _, values in lines)]

    for content in ("\n".join(["timestamp," + header[1], *moved]), "\n".join(bare)):
        assert torch.equal(read(content.encode(), "f.csv").rows, rows)


# --------------------------------------------------------------------------------------------------------- other formats


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "utf-16"])
def test_a_refused_file_names_the_options_that_read_it(delimiter: str, decimal: str, encoding: str) -> None:
    """Without options a table in another format is refused; the error names exactly those with which it is read."""
    degree = {"utf-8": "C", "cp1252": "€"}.get(encoding, "°C")
    rows = [[f"{t}{decimal}5", f"-{t}{decimal}25"] for t in range(30)]
    cells = [["Datum", degree, "b"], *([f"{t + 1:02}.01.2023 00:00", *row] for t, row in enumerate(rows))]
    content = written(cells, encoding, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    form = Format(delimiter, decimal, encoding)
    found = read(content, "f.csv", format=form)
    assert found.rows.tolist() == [[t + 0.5, -t - 0.25] for t in range(30)]
    if form == Format():
        return

    with pytest.raises(DataError) as refused:
        read(content, "f.csv")

    options = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding}
    defaults = {"delimiter": ",", "decimal": ".", "encoding": "utf-8"}
    changed = [f'{name}="{value}"'.replace("\t", "\\t") for name, value in options.items() if value != defaults[name]]
    plural = "s" if len(changed) > 1 else ""
    assert str(refused.value).endswith(f"this file can be read with the task's option{plural} {', '.join(changed)}")


def test_a_task_reads_another_format(tmp_path: Path) -> None:
    """The options of the task read a table with semicolons, decimal commas, points between thousands, in Latin-1."""
    path = tmp_path / "load.csv"
    lines = [f"{t % 28 + 1:02}.{t // 28 + 1:02}.2023 00:00;{4 + t % 3}.027,{t % 10};{t % 7},0" for t in range(60)]
    path.write_bytes("\n".join(["Datum;Last (MW);Temperatur (°C)", *lines]).encode("latin-1"))
    task = Forecasting(csv=str(path), delimiter=";", decimal=",", encoding="latin-1")
    data = task.load(CPU, EXACT)

    assert data.signature is not None
    assert data.signature.columns == ("Last (MW)", "Temperatur (°C)")
    assert data.warnings == (f"{path}: column 'Datum' holds times and is not forecast",)
    with pytest.raises(DataError, match=r'options delimiter=";", decimal=",", encoding="latin-1"$'):
        Forecasting(csv=str(path)).load(CPU, EXACT)


NUMBERS = {
    ".": {"1": 1.0, "-1.5e3": -1500.0, " 2 ": 2.0, "1,5": None, "1_0": None, "1.000,5": None, "1,000.5": None, "": None, "x": None},
    ",": {"1": 1.0, "-1,5e3": -1500.0, "4.027,2": 4027.2, "1.234.567": 1234567.0, "4 027,2": 4027.2, "4\u202f027": 4027.0,
          "1.5": None, "1.0000": None, "1,234,567": None, "1.234,567,8": None, ".5": None, "": None},
}  # fmt: skip


@pytest.mark.parametrize("decimal", NUMBERS)
def test_numbers_are_read_by_their_decimal_mark(decimal: str) -> None:
    """With a decimal comma a point only separates thousands; everything else is not a number."""
    assert {cell: Format(decimal=decimal).number(cell) for cell in NUMBERS[decimal]} == NUMBERS[decimal]


# -------------------------------------------------------------------------------------------------------- spoilt files


def tried(content: bytes, **reading: Any) -> Series | str:
    """The series in a file, or the message of the DataError."""
    try:
        return read(content, "drawn.csv", **reading)
    except DataError as error:
        return str(error)


CELLS = ["1", "-0.5", "1_0", "", "nan", "2012-01-01", "20120102T00Z", "1/2/2012", "12:30", "1.000,5"]


@drawn
@given(
    st.binary()
    | st.binary().map(lambda body: gzip.compress(b"", mtime=0)[:10] + body)
    | st.text(alphabet='date ,;"01.-\n\r\x00é').map(str.encode)
    | st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=2)).map(lambda records: written([["a", "date"], *records]))
    | st.lists(st.lists(st.sampled_from(CELLS), min_size=2, max_size=3)).map(
        lambda records: written([["", "b", "c"], *records])
    ),
    st.booleans(),
    st.booleans(),
    st.builds(Format, st.sampled_from(",;"), st.sampled_from(".,"), st.sampled_from(["utf-8", "latin-1", "utf-16"])),
)
def test_any_bytes_are_a_series_or_a_data_error(content: bytes, drop: bool, returns: bool, form: Format) -> None:
    """Whatever a file holds, reading it gives finite rows, or a DataError that names the source."""
    result = tried(content, drop=drop, returns=returns, format=form)

    if isinstance(result, Series):
        assert result.rows.isfinite().all()
        assert result.rows.shape == (len(result.numbers), len(result.names))
        assert len(result.names) > 0
    else:
        assert result.startswith("drawn.csv")


def put(cells: list[list[str]], row: int, column: int, cell: str) -> bytes:
    """The table with another cell there."""
    cells[row - 1][column] = cell
    return written(cells)


def after(content: bytes, row: int, inserted: bytes) -> bytes:
    """The file with something inserted before that row."""
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[: row - 1], inserted, *lines[row - 1 :]])


#: how a table of cells is spoilt at a row and a column, how it is read then, and the place that the error names
SPOILT: dict[str, tuple[Callable[[list[list[str]], int, int], bytes], dict[str, Any], str]] = {
    "a word": (lambda t, r, c: put(t, r, c, "x"), {}, "row {r}, column '{name}' is 'x'"),
    "a number of Python's": (lambda t, r, c: put(t, r, c, "1_0"), {}, "row {r}, column '{name}' is '1_0'"),
    "nan": (lambda t, r, c: put(t, r, c, "NaN"), {"drop": True}, "row {r}, column '{name}' is 'NaN'"),
    "infinity": (lambda t, r, c: put(t, r, c, "-inf"), {}, "row {r}, column '{name}' is '-inf'"),
    "too large a number": (lambda t, r, c: put(t, r, c, "1e999"), {}, "row {r}, column '{name}' is '1e999'"),
    "an empty cell": (lambda t, r, c: put(t, r, c, " "), {}, "row {r}, column '{name}' has no value"),
    "no price": (lambda t, r, c: put(t, r, c, "0"), {"returns": True}, "row {r}, column '{name}' is 0.0"),
    "a negative price": (lambda t, r, c: put(t, r, c, "-1"), {"returns": True}, "row {r}, column '{name}' is -1.0"),
    "a short row": (lambda t, r, c: written([*t[: r - 1], t[r - 1][:-1], *t[r:]]), {}, "row {r} has {c} values"),
    "a long row": (lambda t, r, c: written([*t[: r - 1], [*t[r - 1], ""], *t[r:]]), {}, "row {r} has "),
    "a blank line": (lambda t, r, c: after(written(t), r, b"\n"), {}, "row {r} has 0 values"),
    "a date twice": (lambda t, r, c: put(t, r, 0, t[r - 2][0]), {}, "column 'date', row {r} is "),
    "an earlier date": (lambda t, r, c: put(t, r, 0, "1999-12-31"), {}, "column 'date', row {r} is '1999-12-31' after "),
    "a date of another form": (lambda t, r, c: put(t, r, 0, "31.12.99"), {}, "column 'date', row {r} is '31.12.99'"),
    "no date": (lambda t, r, c: put(t, r, 0, ""), {}, "column 'date', row {r} is ''"),
    "an offset": (lambda t, r, c: put(t, r, 0, t[r - 1][0] + "T00:00Z"), {}, "column 'date', row {r} is "),
    "a name twice": (lambda t, r, c: put(t, 1, c, "date "), {}, "row 1, column {column} is 'date '"),
    "a number for a name": (lambda t, r, c: put(t, 1, c, "2.5"), {}, "row 1, column {column} is '2.5'"),
    "no name": (lambda t, r, c: put(t, 1, c, ""), {}, "row 1, column {column} is ''"),
    "a column that is not there": (lambda t, r, c: written(t), {"columns": ("x",)}, "no column 'x'; it has: date, c1"),
    "dates that are not there": (lambda t, r, c: written(t), {"date": "x"}, "no column 'x'; it has: date, c1"),
    "a column chosen twice": (lambda t, r, c: written(t), {"columns": ("c1", "c1")}, "column 'c1' is chosen twice"),
    "the dates chosen": (lambda t, r, c: written(t), {"columns": ("c1", "date")}, "column 'date' holds times"),
    "semicolons": (lambda t, r, c: written(t, delimiter=";", quoting=csv.QUOTE_ALL), {}, 'option delimiter=";"'),
    "no rows": (lambda t, r, c: written(t[:1]), {}, "0 rows"),
    "no columns": (lambda t, r, c: written([row[:1] for row in t]), {}, "0 columns to forecast"),
    "nothing": (lambda t, r, c: b"\n \r\n", {}, "drawn.csv is empty"),
    "a quote": (lambda t, r, c: after(written(t), r, b'"1"2'), {}, "line {r} is not CSV"),
    "an endless field": (lambda t, r, c: put(t, r, c, 200_000 * "1"), {}, "line {r} is not CSV: field larger than field limit"),
    "a NUL": (lambda t, r, c: after(written(t), r, b"\0"), {}, "line {r} is not text"),
    "another encoding": (lambda t, r, c: after(written(t), r, "é".encode("latin-1")), {}, "line {r} is not text"),
    "two bytes a character": (lambda t, r, c: written(t).decode().encode("utf-16"), {}, "line 1 is not text"),
    "half an archive": (lambda t, r, c: gzip.compress(written(t))[:-9], {}, "drawn.csv is damaged or cut off"),
    "a damaged archive": (lambda t, r, c: gzip.compress(written(t))[:-4] + b"oops", {}, "drawn.csv is damaged or cut off"),
    "a picture": (lambda t, r, c: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), {}, "line 1 is not text"),
}


@pytest.mark.parametrize("how", SPOILT)
@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_what_is_spoilt_is_refused_by_its_place(how: str, size: int, columns: int, data: st.DataObject) -> None:
    """One fault anywhere in a file that can be read gives a DataError that names its row and column."""
    spoil, reading, place = SPOILT[how]
    names = [f"c{column}" for column in range(1, columns + 1)]
    values = (1 + noise(size + 1, columns).abs()).tolist()
    cells = [["date", *names], *([day, *map(repr, row)] for day, row in zip(dates(size + 1), values, strict=True))]
    row, column = data.draw(st.integers(3, size + 2)), data.draw(st.integers(1, columns))
    assert isinstance(tried(written(cells)), Series)
    result = tried(spoil(cells, row, column), **reading)

    assert isinstance(result, str)
    assert result.startswith("drawn.csv")
    assert place.format(r=row, c=columns, column=column + 1, name=f"c{column}") in result


MALFORMED = {
    "": "f.csv is empty; write a row of column names, then a row of numbers for each time",
    "date,a\n": (
        "f.csv has 1 columns to forecast and 0 rows below their names; column 'date' holds times; write at least one of each"
    ),
    "a,b\n1,2\n1\n": "f.csv, row 3 has 1 values, but row 1 names 2 columns; write one value for each column",
    "a,b\n1,2\n ,3\n": (
        "f.csv, row 3, column 'a' has no value; write a number, choose other columns, or leave out such rows "
        "(--missing drop, or missing='drop')"
    ),
    "a,b\n1,2\n1,x\n": (
        "f.csv, row 3, column 'b' is 'x', which is not a finite number; write one, or choose other "
        "columns (a column of times is recognised if its first cell is a time such as 2012-01-31 18:00)"
    ),
    "date,a\n2012-01-01,1\n1.2.12,2\n": (
        "f.csv, column 'date', row 3 is '1.2.12', which is not a time in the form of the rows above it; "
        "write a day as 2012-01-31, a time as 2012-01-31T18:00"
    ),
    "date,a\nJan,1\n": (
        "f.csv, column 'date', row 2 is 'Jan', which is not a time in ISO 8601 or another common form; "
        "write a day as 2012-01-31, a time as 2012-01-31T18:00"
    ),
    "date,a\n2012-01-02,1\n2012-01-01,2\n": (
        "f.csv, column 'date', row 3 is '2012-01-01' after '2012-01-02' in row 2, back in time; "
        "write the rows in the order of time, one for each time"
    ),
    "a,1.5\n1,2\n": "f.csv, row 1, column 2 is '1.5', which is no name; begin with a row of column names",
    "a,a\n1,2\n": "f.csv, row 1, column 2 is 'a', which is the name of column 1, too; give each column another name",
    "a;b\n1,5;2\n": (
        "f.csv, row 2 has 2 values, but row 1 names 1 columns; write one value for each column; "
        'this file can be read with the task\'s options delimiter=";", decimal=","'
    ),
    'a\n"1"2\n': (
        "f.csv, line 2 is not CSV: ',' expected after '\"'; write one line for each row, with ',' between the values"
    ),
    "a\n\0\n": "f.csv, line 2 is not text in UTF-8; save the table as CSV in UTF-8, plain or gzipped",
}


@pytest.mark.parametrize("content", MALFORMED)
def test_malformed_text_is_refused(content: str) -> None:
    """Each kind of malformed text has an error that says where, why, and what to write."""
    with pytest.raises(DataError) as refused:
        read(content.encode(), "f.csv")

    assert str(refused.value) == MALFORMED[content]


@pytest.mark.parametrize("column", ["1", "x", "2020-01-01"])
def test_a_very_wide_table_is_read_or_refused_in_seconds(column: str) -> None:
    """The time grows with the number of columns, not with its square."""
    names = ",".join(f"c{n}" for n in range(60_000))
    start = time.process_time()
    result = tried(f"{names}\n{','.join(itertools.repeat(column, 60_000))}\n".encode())

    assert isinstance(result, Series if column == "1" else str)
    assert time.process_time() - start < 10


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    """A pipe without a writer is not waited for."""
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv cannot be read: it is not a regular file"):
        Forecasting(csv=str(tmp_path / "pipe.csv")).load(CPU, EXACT)


def test_a_file_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive of a huge table is not unpacked to its end, and a huge file is not read."""
    monkeypatch.setattr(tables, "LARGEST", 2**16)
    with pytest.raises(DataError, match=r"bomb has more than .* GiB, unpacked"):
        read(gzip.compress(b"a\n" + 2**20 * b"1\n"), "bomb")
    (tmp_path / "huge.csv").write_bytes(2**20 * b"1\n")
    with pytest.raises(DataError, match=r"huge\.csv has more than .* GiB, unpacked"):
        Forecasting(csv=str(tmp_path / "huge.csv")).load(CPU, EXACT)


# ------------------------------------------------------------------------------------------------------------- mutants


CHOSEN = tables._chosen


class TestMutants:
    """Each is a reader with one fault; the law named catches it."""

    @pytest.mark.parametrize(
        ("where", "name", "fault", "law", "failure"),
        [
            (
                tables,
                "_chosen",
                lambda *given: dict(sorted(CHOSEN(*given).items())),
                test_reading_gives_what_was_written,
                AssertionError,
            ),
            (torch, "log", lambda ratios: ratios - 1, test_log_returns_are_numpys, AssertionError),
            (Format, "number", lambda form, cell: float(cell), test_any_bytes_are_a_series_or_a_data_error, ValueError),
            (zlib, "error", KeyError, test_any_bytes_are_a_series_or_a_data_error, zlib.error),
            (tables, "_other_format", lambda *_: Format(";"), lambda: test_malformed_text_is_refused(""), AssertionError),
            (tables, "TIMES", (), lambda: test_times_in_numbers_are_recognised_by_name_and_order("year"), AssertionError),
            (tables, "_READERS", tables._READERS[:1], lambda: test_times_are_recognised_and_reported("German", "t"), DataError),
        ],
    )
    def test_a_reader_with_a_fault(
        self,
        where: Any,
        name: str,
        fault: Any,
        law: Callable[[], None],
        failure: type[BaseException],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A reader that orders, computes or lets through wrongly fails its law."""
        monkeypatch.setattr(where, name, fault)
        with pytest.raises(failure):
            law()

    @pytest.mark.parametrize(
        ("name", "fault", "how"),
        [
            ("_check_order", lambda *_: None, "an earlier date"),
            ("_number", lambda cell, *_: 0.0, "an empty cell"),
            ("_names", lambda header, *_: {name.strip(): at for at, name in enumerate(header)}, "a name twice"),
        ],
    )
    def test_a_spoilt_file_let_through(self, name: str, fault: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each check that is left out lets a fault through."""
        monkeypatch.setattr(tables, name, fault)
        with pytest.raises(AssertionError):
            test_what_is_spoilt_is_refused_by_its_place(how)
