"""What the machine lacks, from the exception that ended an engine's start or a job."""

from __future__ import annotations

import errno
import resource

from upscaled_protocol.errors import ErrorCode, JobError

_NO_FOLDER = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_NO_MEMORY = (errno.ENOMEM, errno.EAGAIN)
# Messages of the dynamic loader and of Python, which have no error number.
_WORDS_OF_MEMORY = ("failed to map segment", "cannot allocate memory", "can't start new thread")
_WORDS_OF_FOLDERS = ("no usable temporary directory",)


def start_failure(method: str, error: BaseException) -> JobError:
    """The error of an engine that cannot start. Retryable if the machine lacks something."""
    text = f"the {method} engine cannot start: {type(error).__name__}: {error}"
    return missing_resource(text, error) or JobError(ErrorCode.INTERNAL, text)


def missing_resource(text: str, error: BaseException) -> JobError | None:
    """The error, with what the machine lacks and what to do; None if the reason is another one."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        words = str(one).lower()
        if number in _NO_FILES:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            text += f"; this process may have {most} open files: raise `ulimit -n`"
            return JobError(ErrorCode.WORKER_CRASHED, text)
        if number in _NO_FOLDER or any(word in words for word in _WORDS_OF_FOLDERS):
            text += "; no temporary file can be written: set TMPDIR to a folder that has room"
            return JobError(ErrorCode.WORKER_CRASHED, text)
        if (
            isinstance(one, MemoryError)
            or number in _NO_MEMORY
            or any(word in words for word in _WORDS_OF_MEMORY)
        ):
            most = resource.getrlimit(resource.RLIMIT_AS)[0]
            if most != resource.RLIM_INFINITY:
                text += f"; its memory is limited to {most // 2**20} MiB: raise `ulimit -v`"
            return JobError(ErrorCode.OUT_OF_MEMORY, text)
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
