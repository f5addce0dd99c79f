"""Words for messages."""


def counted(number: float, noun: str) -> str:
    """A number and its noun: `1 GPU`, `2 GPUs`, `0.5 CPUs`, `0 identities`."""
    amount = str(number) if isinstance(number, int) else f"{number:g}"
    if number == 1:
        return f"{amount} {noun}"
    ends_in_y = noun.endswith("y") and noun[-2:-1] not in "aeiou"
    return f"{amount} {noun[:-1]}ies" if ends_in_y else f"{amount} {noun}s"
