"""Accounts for models that know nothing of who pays: whoever pays, what a VMO shows is the same."""

from __future__ import annotations

from vmofs.core.pages.account import Account


class Unwilling(Account):
    """May take what he makes, but nothing that others have made."""

    __slots__ = ()

    def has_room(self, pages: int) -> bool:
        """Refuse what is to be moved here."""
        del pages
        return False

    def check(self, pages: int) -> None:
        """Allow what he makes."""


class Payers:
    """Several accounts, given out in turn."""

    def __init__(self) -> None:
        self._accounts = [Account("one"), Account("another", 10_000, 100_000), Unwilling("a third"), None]
        self._given = 0

    def next(self) -> Account | None:
        """Return the account of the next object."""
        self._given += 1
        return self._accounts[self._given % len(self._accounts)]

    def check_empty(self) -> None:
        """Assert that nothing is left."""
        assert not any(account.pages or account.ranges for account in self._accounts if account is not None)
