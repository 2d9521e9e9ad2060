"""What the scripts of checks share: one line a check, and an exit code that tells whether all held."""

import os
import sys
import traceback

NOBODY = 65534
_failed = 0


def check(name, held, detail=""):
    """Prints one check."""
    global _failed
    _failed += not held
    print(f"{'ok  ' if held else 'FAIL'} {name}{'' if held or detail == '' else f': {detail}'}", flush=True)


def fails_with(number, call, *arguments, **named):
    """Whether the call fails with this errno."""
    try:
        call(*arguments, **named)
    except OSError as error:
        return error.errno == number
    return False


def as_nobody(call):
    """Runs `call` in a process of a user without any rights; answers whether it ended without an exception."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            call()
            os._exit(0)
        except OSError as error:
            print(f"     by nobody: {error}", flush=True)
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def finish():
    """Ends the script."""
    sys.exit(1 if _failed else 0)
