"""Where the bytes of an object lie, without copying them: of bytes, bytearray, memoryview, numpy arrays and whatever else has a buffer."""

import ctypes
from contextlib import contextmanager

_SIMPLE, _WRITABLE = 0, 1


class _PyBuffer(ctypes.Structure):
    """Py_buffer of CPython, whose layout has been the same since 3.3 and is part of its stable interface since 3.11."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_get.restype = ctypes.c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(_PyBuffer)]
_release.restype = None


@contextmanager
def pinned(data, writable=False):
    """Address and length in bytes of a contiguous buffer, which stays where it is meanwhile. BufferError or TypeError if there is none, or none
    that may be written."""
    view = _PyBuffer()
    _get(data, ctypes.byref(view), _WRITABLE if writable else _SIMPLE)
    try:
        yield view.buf, view.len
    finally:
        _release(ctypes.byref(view))
