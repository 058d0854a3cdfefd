"""Tables: CSV files of numbers, in the order of time.

`read_table` turns the bytes of a file into columns of numbers. It recognises the columns that hold times or an index, and checks
that the times ascend. Everything that cannot be read is a DataError that counts rows as a spreadsheet does: the names are row 1.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from nasframe.errors import DataError

#: The column of this name, in upper or lower case, holds the times.
DATE = "date"
#: Columns of these names hold times also if they are numbers (years, seconds since 1970) that always rise or always fall.
TIMES = (DATE, "datetime", "time", "timestamp", "year")
#: The names of an index: pandas writes an empty name, and reads it back as "Unnamed: 0".
INDEX = ("", "Unnamed: 0")

#: Files with more bytes than this, unpacked, are refused: their numbers would need many times as much memory.
LARGEST = 2**30
#: The number of characters of a refused file that are tried in other formats.
BEGINNING = 20_000

# The order does not matter where a day is unambiguous. Where it is not, as in 01/02/2012, all forms that fit are tried on
# the whole column.
_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y"),
)
_CLOCKS = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")

#: The beginning of a time in one of these forms.
_BEGINS = re.compile(r"\d{1,4}[-/. ]|[A-Za-z]{3} \d")

#: A number with separated thousands, where the decimal mark is a comma: 4.027,2 or 4 027,2
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([.\s'’]\d{3})+(,\d*)?")

#: A function from a cell to a time that can be compared, or to None if the cell has another form.
Reader = Callable[[str], "datetime | float | None"]


@attrs.frozen
class Format:
    """How the table is written in the file."""

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"

    def number(self, cell: str) -> float | None:
        """Return the number in a cell, or None."""
        if self.decimal == ",":
            if _THOUSANDS.fullmatch(cell.strip()):
                cell = re.sub(r"[.\s'’]", "", cell)
            # a point that does not separate thousands is no decimal mark, either
            cell = "" if "." in cell else cell.replace(",", ".")
        try:
            return float(cell) if "_" not in cell else None  # Python reads 1_000; other programs do not
        except ValueError:
            return None

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in attrs.fields(Format) if getattr(self, f.name) != f.default}
        options = [f'{name}="{value}"'.replace("\t", "\\t") for name, value in values.items()]
        return f"option{'s' if len(options) > 1 else ''} {', '.join(options)}"


@attrs.frozen
class Table:
    """A table of numbers.

    Args:
        names: the names of the columns.
        rows: the numbers, row by row.
        numbers: the number of each row in the file.
        notes: a sentence for each column that was recognised as times or as an index.
    """

    names: tuple[str, ...]
    rows: list[list[float]]
    numbers: tuple[int, ...]
    notes: tuple[str, ...]


def read_table(
    content: bytes,
    source: str,
    *,
    columns: Sequence[str] = (),
    date: str | None = None,
    drop: bool = False,
    format: Format = Format(),
) -> Table:
    """Return the table in a CSV file: a row of column names, then a row of numbers for each time.

    Args:
        content: the bytes of the file, plain or gzipped.
        source: the name of the file in errors and notes.
        columns: the columns to read, in this order; by default all that hold neither times nor an index.
        date: the column of times; by default the one named `date`, otherwise the first that holds times.
        drop: leave out the rows in which a column that is read has no value.
        format: how the table is written.

    Raises:
        DataError: The table cannot be read. If it can be read in another format, the error names the options of the task.
    """

    # A file is read in the given format only. Other formats are tried after an error, to tell the user what to write, and
    # never used silently: a wrong decimal mark gives plausible numbers.
    def parsed(text: str, format: Format) -> Table:
        return _parse(text, source, columns, date, drop, format)

    content = _unpacked(content, source)
    try:
        return parsed(_text(content, source, format), format)
    except DataError as error:
        other = _other_format(content, format, parsed)
        if other is None:
            raise
        raise DataError(f"{error}; this file can be read with the task's {other}") from error


def _parse(text: str, source: str, columns: Sequence[str], date: str | None, drop: bool, format: Format) -> Table:
    header, *records = _cells(text, source, format)
    names = _names(header, records, source)
    for name in (*columns, *([] if date is None else [date])):
        if name not in names:
            raise DataError(f"{source} has no column {name!r}; it has: {', '.join(filter(None, names))}")
    heads = {name: next((r[at] for r in records if r[at].strip()), "") for name, at in names.items()}
    time, clock, skipped = _times(names, heads, records, columns, date, format)
    chosen = _chosen(names, columns, skipped, source)
    if not chosen or not records:
        also = "".join(f"; {note}" for note in skipped.values())
        raise DataError(
            f"{source} has {len(chosen)} columns to forecast and {len(records)} rows below their names{also}; "
            "write at least one of each"
        )
    kept = {
        row: record
        for row, record in enumerate(records, 2)
        if not (drop and any(not record[at].strip() for at in chosen.values()))
    }
    if time is not None:
        # A column without a name is an index of pandas, which comes first.
        where = f"{source}, column {time!r}" if time else f"{source}, column 1"
        places = [names[name] for name in (time, clock) if name is not None]
        _check_order([(row, " ".join(r[at].strip() for at in places)) for row, r in kept.items()], where, format)
    rows = [
        [_number(record[at], f"{source}, row {row}, column {name!r}", format) for name, at in chosen.items()]
        for row, record in kept.items()
    ]
    notes = () if columns else tuple(f"{source}: {note} and is not forecast" for name, note in skipped.items() if name != date)
    return Table(tuple(chosen), rows, tuple(kept), notes)


# ------------------------------------------------------------------------------------------------------- text and cells


def too_large(source: str) -> DataError:
    """Return the error for a file that does not fit into memory."""
    return DataError(f"{source} has more than {LARGEST / 2**30:.3g} GiB, unpacked; give fewer rows or columns")


def _unpacked(content: bytes, source: str) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} is damaged or cut off: {error}; make the .gz file anew") from error
    if len(unpacked) > LARGEST:
        raise too_large(source)
    return unpacked


def _decoded(content: bytes, encoding: str) -> str:
    # a byte order mark is no part of the first name
    return content.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)


def _text(content: bytes, source: str, format: Format) -> str:
    """Return the text of a file without the blank lines at its end."""
    try:
        text = _decoded(content, format.encoding)
        end = text.find("\0")
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        # Only in order to count the lines: in Latin-1 every byte is a character.
        text = content[:start].decode("latin-1")
        end = len(text)
    if end >= 0:
        line = text.count("\n", 0, end) + 1
        raise DataError(
            f"{source}, line {line} is not text in {format.encoding.upper()}; save the table as CSV in UTF-8, plain or gzipped"
        )
    return text.rstrip(" \t\r\n\f\v".replace(format.delimiter, ""))


def _cells(text: str, source: str, format: Format) -> list[list[str]]:
    """Return the cells of a CSV text: at least one row, and all rows of one length."""
    if not text:
        raise DataError(f"{source} is empty; write a row of column names, then a row of numbers for each time")
    # Strict, so that a quote in the middle of a cell is an error and does not swallow the lines behind it.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=format.delimiter)
    try:
        table = list(reader)
    except csv.Error as error:
        raise DataError(
            f"{source}, line {reader.line_num} is not CSV: {error}; write one line for each row, with {format.delimiter!r} "
            "between the values"
        ) from error
    for row, record in enumerate(table, 1):
        if len(record) != len(table[0]):
            raise DataError(
                f"{source}, row {row} has {len(record)} values, but row 1 names {len(table[0])} columns; "
                "write one value for each column"
            )
    return table


def _other_format(content: bytes, format: Format, parsed: Callable[[str, Format], Table]) -> Format | None:
    """Return a common format in which the beginning of the table can be read, if it cannot be read in the given one."""
    # almost any bytes are text in UTF-16 and Latin-1: the one begins with a mark, the other has no control characters
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in (format.encoding, *(["utf-16"] if marked else ["utf-8", "latin-1", "cp1252"])):
        try:
            text = _text(content, "", attrs.evolve(format, encoding=encoding))
        except DataError:
            continue
        if encoding == "latin-1" and re.search("[\x80-\x9f]", text):
            continue
        # Whole lines of the beginning: the last one may have been cut in the middle of a number.
        beginning = text if len(text) < BEGINNING else text[:BEGINNING].rpartition("\n")[0]
        header = beginning.partition("\n")[0]
        others = itertools.product([d for d in ",;\t|" if d in header], ".,")
        for delimiter, decimal in [(format.delimiter, format.decimal), *others]:
            other = Format(delimiter, decimal, encoding)
            try:
                parsed(beginning, other)
            except DataError:
                continue
            return None if other == format else other
        return None
    return None


# -------------------------------------------------------------------------------------------------------------- columns


def _names(header: Sequence[str], records: Sequence[Sequence[str]], source: str) -> dict[str, int]:
    """Return the place of each named column. Numbers or times in the first row mean that the names are missing."""
    names: dict[str, int] = {}
    marks = [Format(decimal=mark) for mark in ".,"]
    for at, cell in enumerate(header):
        name, where = cell.strip(), f"{source}, row 1, column {at + 1} is {cell!r}, which is"
        if not name and at > 0 and not any(record[at].strip() for record in records):
            continue  # a delimiter at the end of each line
        # pandas counts columns that have no names: 0, 1, 2, ...
        number = not name.isdecimal() and any(form.number(name) is not None for form in marks)
        if (not name and at > 0) or number or _reader(name) is not None:
            raise DataError(f"{where} no name; begin with a row of column names")
        if name in names:
            raise DataError(f"{where} the name of column {names[name] + 1}, too; give each column another name")
        names[name] = at
    counted = [name for name in names if name.isdecimal()]
    if counted and len(counted) == len(names.keys() - {""}) and counted != [*map(str, range(len(counted)))]:
        raise DataError(f"{source}, row 1 holds only numbers ({', '.join(counted[:5])}); begin with a row of column names")
    return names


def _chosen(names: Mapping[str, int], columns: Sequence[str], skipped: Mapping[str, str], source: str) -> dict[str, int]:
    """Return the names of the columns to read and their places."""
    chosen: dict[str, int] = {}
    for name in columns or [name for name in names if name not in skipped]:
        if name in skipped:
            raise DataError(f"{source}, {skipped[name]}, which is not forecast; leave it out of the columns")
        if name in chosen:
            raise DataError(f"{source}, column {name!r} is chosen twice; choose each column once")
        chosen[name] = names[name]
    return chosen


def _number(cell: str, where: str, format: Format) -> float:
    """Return the finite number in a cell."""
    value = format.number(cell)
    if not cell.strip():
        raise DataError(
            f"{where} has no value; write a number, choose other columns, or leave out such rows (--missing drop, or missing='drop')"
        )
    if value is None or not math.isfinite(value):
        raise DataError(
            f"{where} is {cell!r}, which is not a finite number; write one, or choose other columns (a column of times is recognised if "
            "its first cell is a time such as 2012-01-31 18:00)"
        )
    return value


# ---------------------------------------------------------------------------------------------------------------- times


def _times(
    names: Mapping[str, int],
    heads: Mapping[str, str],
    records: Sequence[Sequence[str]],
    columns: Sequence[str],
    date: str | None,
    format: Format,
) -> tuple[str | None, str | None, dict[str, str]]:
    """Return the column of times, the column of times of day that belongs to it, and the columns that are not forecast.

    The latter are described, such as "column 'start' holds times".
    """
    skipped: dict[str, str] = {}
    clocks: list[str] = []
    times: list[str] = []
    # A column is judged by its first cell that is not empty, except that numbers count as times only in a column of such a
    # name, and only if all of them rise or all fall.
    for name, at in names.items():
        label, head = f"column {name!r}" if name else f"column {at + 1}, which has no name,", heads[name]
        if name == date or (date is None and name.lower() == DATE):
            times.insert(0, name)
        elif format.number(head) is None and _reader(head) is not None:
            times.append(name)
        elif ":" in head and any(_strptime(clock)(head) for clock in _CLOCKS):
            clocks.append(name)
            skipped[name] = f"{label} holds times of day"
        elif name.lower() in TIMES and name not in columns and _monotonic([format.number(r[at]) for r in records]):
            times.append(name)
        elif at == 0 and name in INDEX and name not in columns:
            skipped[name] = f"{label} holds an index"
    skipped |= {name: f"column {name!r} holds times" if name else "column 1, which has no name, holds times" for name in times}
    if not times:
        return None, None, skipped
    clock = next((c for c in clocks if _reader(f"{heads[times[0]].strip()} {heads[c].strip()}") is not None), None)
    return times[0], clock, skipped


def _monotonic(values: Sequence[float | None]) -> bool:
    """Return whether all values are numbers that always rise or always fall."""
    numbers = [value for value in values if value is not None]
    pairs = list(itertools.pairwise(numbers))
    return len(numbers) == len(values) and (all(a < b for a, b in pairs) or all(a > b for a, b in pairs))


def _iso(cell: str) -> datetime | None:
    try:
        return datetime.fromisoformat(cell.removesuffix(" UTC"))
    except ValueError:
        return None


def _strptime(form: str) -> Reader:
    def read(cell: str) -> datetime | None:
        try:
            return datetime.strptime(cell.strip(), form)
        except ValueError:
            return None

    return read


#: ISO 8601 with or without a UTC offset, then common forms: days alone, and days with a time of day.
_READERS: tuple[Reader, ...] = (
    _iso,
    *map(_strptime, _DAYS),
    *(_strptime(f"{day} {clock}") for day, clock in itertools.product(_DAYS, _CLOCKS)),
)


def _reader(cell: str) -> Reader | None:
    """Return a function that reads the time in this cell, or None if it holds none."""
    cell = cell.strip()
    # most cells are not times at a glance, and trying all forms takes a millisecond
    readers = _READERS if _BEGINS.match(cell) else _READERS[:1]
    return next((reader for reader in readers if reader(cell) is not None), None)


def _check_order(cells: Sequence[tuple[int, str]], where: str, format: Format) -> None:
    """Refuse times that do not ascend from row to row.

    01/02/2012 is a day in January or in February: it is enough that the times ascend in one of the forms that fit the first cell.
    """
    readers = [reader for reader in (*_READERS, format.number) if cells and reader(cells[0][1]) is not None]
    # If the times ascend in no form, the error is that of the form that went furthest, which is most likely the right one.
    faults = [fault for reader in readers or [_iso] if (fault := _fault(cells, reader)) is not None]
    if cells and (not readers or len(faults) == len(readers)):
        raise DataError(f"{where}, {max(faults, key=lambda fault: fault[0])[1]}")


def _fault(cells: Iterable[tuple[int, str]], reader: Reader) -> tuple[int, str] | None:
    """Return the first row whose time is not later than that of the row before, and what is wrong with it."""
    before, earlier, start = 0, "", None
    for row, cell in cells:
        time = reader(cell)
        if time is None:
            form = "a time in ISO 8601 or another common form" if start is None else "a time in the form of the rows above it"
            return row, f"row {row} is {cell!r}, which is not {form}; write a day as 2012-01-31, a time as 2012-01-31T18:00"
        # Times with and without an offset cannot be compared, so that this is checked first.
        what = f"row {row} is {cell!r} after {earlier!r} in row {before}"
        if start is not None and _has_offset(start) != _has_offset(time):
            return row, f"{what}, of which one has a UTC offset; write it to all times or to none"
        if start is not None and time <= start:  # type: ignore[operator]
            fault = "the same time twice" if time == start else "back in time"
            hint = " (where clocks are set back, with UTC offsets)" if " " in cell or "T" in cell else ""
            return row, f"{what}, {fault}; write the rows in the order of time, one for each time{hint}"
        before, earlier, start = row, cell, time
    return None


def _has_offset(time: datetime | float) -> bool:
    return isinstance(time, datetime) and time.utcoffset() is not None
