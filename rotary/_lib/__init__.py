"""What the rest of the library stands on: types, errors, checks, numbers, array libraries and the one cache class."""
