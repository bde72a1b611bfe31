"""The compiler's only way to say no."""


class NotCompilable(Exception):
    """This step cannot be written as a plan; the message names the step and why."""
