"""How a COCO dictionary is changed in one place."""


def set_at(target, path, value):
    """Puts a value at a path of keys and positions; KeyError takes away what is there."""
    *parents, key = path
    for step in parents:
        target = target[step]
    if value is KeyError:
        del target[key]
    else:
        target[key] = value
