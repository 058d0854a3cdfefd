"""Addresses of sites and nodes."""

from __future__ import annotations

from nasframe.errors import StructureError


class Address(str):
    """The address of a site or a node: its cell type and its id, written "cell/id".

    An address is a string, so it is a key of dictionaries, of `nn.ParameterDict` and of JSON as it is, and it equals the plain
    string with the same text. Ids are unique among the sites of a cell and among its nodes, but a site and a node may share one.

    Args:
        text: the cell type and the id with "/" between them, for example "normal/n0".

    Raises:
        StructureError: if `text` does not have this form.

    Example:
        >>> site = Address.of("normal", "i0-n0")
        >>> site, site.cell, site.id
        ('normal/i0-n0', 'normal', 'i0-n0')
        >>> site == Address("normal/i0-n0") == "normal/i0-n0"
        True
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Address:
        """Return the address that the text denotes."""
        if text.count("/") != 1 or "" in text.split("/"):
            raise StructureError(f'{text!r} is no address of a site or a node; write "CELL/ID", for example "normal/n0"')
        return super().__new__(cls, text)

    def __deepcopy__(self, memo: object) -> Address:
        return self  # as for every text

    @classmethod
    def of(cls, cell: str, id: str) -> Address:
        """Return the address of the site or node `id` in the cell type `cell`."""
        return cls(f"{cell}/{id}")

    @property
    def cell(self) -> str:
        """Return the cell type of the site or node."""
        return self.partition("/")[0]

    @property
    def id(self) -> str:
        """Return the id of the site or node in its cell type."""
        return self.partition("/")[2]
