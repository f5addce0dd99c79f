"""What can be wrong with a face dataset or with the storage it is in."""


class DatasetError(ValueError):
    """A face dataset that is missing, unfinished, damaged, or does not fit what is asked of it."""


class StorageError(DatasetError):
    """Storage that failed in reading or writing. Unlike other mistakes it may pass, so workers try again."""
