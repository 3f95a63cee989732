"""What was left out, guessed or assumed in a table: nothing is in silence."""


class Told:
    """Phrases, each with the number of rows that it is true of; 0: of the table as a whole."""

    def __init__(self):
        self.counts: dict[str, int] = {}

    def of_rows(self, what: str, count: int) -> None:
        if count:
            self.counts[what] = self.counts.get(what, 0) + int(count)

    def of_table(self, what: str) -> None:
        self.counts.setdefault(what, 0)

    def __str__(self) -> str:
        return "; ".join(f"{count:,} {what}" if count else what for what, count in self.counts.items())
