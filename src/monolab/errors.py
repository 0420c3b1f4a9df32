"""The one error that a user of the lab can fix."""


class LabError(Exception):
    """What is wrong, and the next command.

    Only the command line catches it: it prints both lines and exits with 1.
    """

    def __init__(self, what: str, hint: str = ""):
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  next: {self.hint}" if self.hint else self.what
