"""Ways to make a formula wrong, to see its line turn red."""


def scaled(function, factor=1.01):
    """The function with a result, or the tensors in it, a hundredth too large."""

    def wrong(*args, **kwargs):
        result = function(*args, **kwargs)
        if isinstance(result, tuple):
            return tuple(number * factor for number in result)
        return result * factor

    return wrong


def changed(function, **fields):
    """The function with some fields of its record replaced by functions of them."""

    def wrong(*args, **kwargs):
        record = function(*args, **kwargs)
        for name, change in fields.items():
            object.__setattr__(record, name, change(getattr(record, name)))
        return record

    return wrong


def held(conditions):
    for condition in conditions:
        object.__setattr__(condition, "held", True)
    return conditions
