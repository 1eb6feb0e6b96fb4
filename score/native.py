"""ONNX Runtime's C library through ctypes: a model's bytes and rows in, numbers out. It needs no numpy.

The library's functions are in a table, and a function is found by its index in the table (`_PLACES`). The table only
grows: an index never changes (onnxruntime_c_api.h, "OrtApi"). `python -m score.native HEADER` compares `_PLACES` with a
header.
"""

from __future__ import annotations

import ctypes
import os
import sys
from array import array
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

API_VERSION = 18  # the oldest that has all of `_PLACES`; newer libraries have it too
_PLACES = {
    "GetErrorMessage": 2,
    "CreateEnv": 3,
    "DisableTelemetryEvents": 6,
    "CreateSessionFromArray": 8,
    "Run": 9,
    "CreateSessionOptions": 10,
    "SetSessionGraphOptimizationLevel": 23,
    "SetIntraOpNumThreads": 24,
    "SetInterOpNumThreads": 25,
    "SessionGetInputCount": 30,
    "SessionGetOutputCount": 31,
    "SessionGetInputTypeInfo": 33,
    "SessionGetOutputTypeInfo": 34,
    "SessionGetInputName": 36,
    "SessionGetOutputName": 37,
    "CreateRunOptions": 39,
    "RunOptionsSetTerminate": 46,
    "CreateTensorAsOrtValue": 48,
    "CreateTensorWithDataAsOrtValue": 49,
    "IsTensor": 50,
    "GetTensorMutableData": 51,
    "FillStringTensor": 52,
    "CastTypeInfoToTensorInfo": 55,
    "GetTensorElementType": 60,
    "GetDimensionsCount": 61,
    "GetDimensions": 62,
    "GetTensorTypeAndShape": 65,
    "CreateCpuMemoryInfo": 69,
    "AllocatorFree": 76,
    "GetAllocatorWithDefaultOptions": 78,
    "ReleaseStatus": 93,
    "ReleaseSession": 95,
    "ReleaseValue": 96,
    "ReleaseRunOptions": 97,
    "ReleaseTypeInfo": 98,
    "ReleaseTensorTypeAndShapeInfo": 99,
    "ReleaseSessionOptions": 100,
}
# Functions that return no status, but nothing or the text of an error.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "GetErrorMessage": (c_char_p, c_void_p),
    **{name: (None, c_void_p) for name in _PLACES if name.startswith("Release")},
}
_P = c_void_p  # a handle, or the address of one
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "CreateEnv": (c_int, c_char_p, _P),
    "DisableTelemetryEvents": (_P,),
    "CreateSessionFromArray": (_P, c_char_p, c_size_t, _P, _P),
    "Run": (_P, _P, _P, _P, c_size_t, _P, c_size_t, _P),
    "CreateSessionOptions": (_P,),
    "SetSessionGraphOptimizationLevel": (_P, c_int),
    "SetIntraOpNumThreads": (_P, c_int),
    "SetInterOpNumThreads": (_P, c_int),
    "SessionGetInputCount": (_P, _P),
    "SessionGetOutputCount": (_P, _P),
    "SessionGetInputTypeInfo": (_P, c_size_t, _P),
    "SessionGetOutputTypeInfo": (_P, c_size_t, _P),
    "SessionGetInputName": (_P, c_size_t, _P, _P),
    "SessionGetOutputName": (_P, c_size_t, _P, _P),
    "CreateRunOptions": (_P,),
    "RunOptionsSetTerminate": (_P,),
    "CreateTensorAsOrtValue": (_P, _P, c_size_t, c_int, _P),
    "CreateTensorWithDataAsOrtValue": (_P, _P, c_size_t, _P, c_size_t, c_int, _P),
    "IsTensor": (_P, _P),
    "GetTensorMutableData": (_P, _P),
    "FillStringTensor": (_P, _P, c_size_t),
    "CastTypeInfoToTensorInfo": (_P, _P),
    "GetTensorElementType": (_P, _P),
    "GetDimensionsCount": (_P, _P),
    "GetDimensions": (_P, _P, c_size_t),
    "GetTensorTypeAndShape": (_P, _P),
    "CreateCpuMemoryInfo": (c_int, c_int, _P),
    "AllocatorFree": (_P, _P),
    "GetAllocatorWithDefaultOptions": (_P,),
}
# ONNXTensorElementDataType of the element types that are used, and the code of `array` of each.
_ELEMENTS = {"float": (1, "f"), "int64": (7, "q"), "string": (8, ""), "bool": (9, "b"), "double": (11, "d")}
_NAMES = {number: name for name, (number, _) in _ELEMENTS.items()}
_FATAL = 4  # log level: failures are returned as errors instead
_ALL_OPTIMIZATIONS = 99
LIBRARY = "libonnxruntime.so"


class RuntimeFailed(Exception):
    """The runtime refused a model or a row; the message is the runtime's, in one line of at most 300 characters."""


class TensorType(NamedTuple):
    """Element type and shape of an input or output of a model. None: an unsupported type; -1: any size."""

    type: str | None
    shape: tuple[int, ...]


class Runtime:
    """The loaded library: one environment per process, without threads of its own."""

    def __init__(self, path: str) -> None:
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise RuntimeFailed(f"{path}: can't be loaded: {error}") from error
        library.OrtGetApiBase.restype = ctypes.POINTER(c_void_p * 2)
        get_api, get_version = (place or 0 for place in library.OrtGetApiBase().contents)
        self.version: str = ctypes.CFUNCTYPE(c_char_p)(get_version)().decode()
        table = ctypes.CFUNCTYPE(c_void_p, c_uint32)(get_api)(API_VERSION)
        if not table:
            raise RuntimeFailed(f"{path}: ONNX Runtime {self.version} has no API version {API_VERSION}")
        self._functions = (c_void_p * (max(_PLACES.values()) + 1)).from_address(table)
        self._library = library
        for name in _PLACES:
            setattr(self, name, self._bind(name))
        self.env = c_void_p()
        self.call("CreateEnv", _FATAL, b"larder", byref(self.env))
        self.call("DisableTelemetryEvents", self.env)
        self.memory = c_void_p()
        self.call("CreateCpuMemoryInfo", 0, 0, byref(self.memory))  # device allocator, default memory
        self.allocator = c_void_p()
        self.call("GetAllocatorWithDefaultOptions", byref(self.allocator))

    def _bind(self, name: str) -> Any:
        result, *arguments = _PLAIN.get(name) or (c_void_p, *_ARGUMENTS[name])
        return ctypes.CFUNCTYPE(result, *arguments)(self._functions[_PLACES[name]] or 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the table.

        Raises:
            RuntimeFailed: it returned an error.
        """
        status: int | None = getattr(self, name)(*arguments)
        self.check(status)

    def check(self, status: int | None) -> None:
        """Raise the error of a status; null means success."""
        if status:
            functions: Any = self
            message: bytes = functions.GetErrorMessage(status) or b""
            functions.ReleaseStatus(status)
            raise RuntimeFailed(" ".join(message.decode("utf-8", "replace").split())[:300])


class Session:
    """A loaded model. It runs one call at a time: other threads wait."""

    def __init__(self, runtime: Runtime, model: bytes) -> None:
        """Load a model from its bytes, which must have passed `score.onnx_file.check_model`.

        Raises:
            RuntimeFailed: the runtime refused it.
        """
        self._runtime = runtime
        self._lock = Lock()
        self._handle = c_void_p()
        options = c_void_p()
        runtime.call("CreateSessionOptions", byref(options))
        try:
            # One thread: a Lambda has one vCPU at 1,769 MB, and a pool would cost more than small models take.
            runtime.call("SetIntraOpNumThreads", options, 1)
            runtime.call("SetInterOpNumThreads", options, 1)
            runtime.call("SetSessionGraphOptimizationLevel", options, _ALL_OPTIMIZATIONS)
            runtime.call("CreateSessionFromArray", runtime.env, model, len(model), options, byref(self._handle))
        finally:
            runtime.ReleaseSessionOptions(options)  # type: ignore[attr-defined]
        self.inputs = self._describe("Input")
        self.outputs = self._describe("Output")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._runtime.ReleaseSession(self._handle)  # type: ignore[attr-defined]

    def _describe(self, kind: str) -> dict[str, TensorType]:
        runtime, count, found = self._runtime, c_size_t(), {}
        runtime.call(f"SessionGet{kind}Count", self._handle, byref(count))
        for number in range(count.value):
            name = c_void_p()
            runtime.call(f"SessionGet{kind}Name", self._handle, number, runtime.allocator, byref(name))
            text = ctypes.string_at(name.value or 0).decode("utf-8", "replace")  # a file can have any bytes as a name
            runtime.call("AllocatorFree", runtime.allocator, name)
            info, tensor = c_void_p(), c_void_p()
            runtime.call(f"SessionGet{kind}TypeInfo", self._handle, number, byref(info))
            try:
                runtime.call("CastTypeInfoToTensorInfo", info, byref(tensor))
                found[text] = self._read_type(tensor) if tensor else TensorType(None, ())
            finally:
                runtime.ReleaseTypeInfo(info)  # type: ignore[attr-defined]
        return found

    def _read_type(self, info: c_void_p) -> TensorType:
        runtime: Any = self._runtime
        element, count = c_int(), c_size_t()
        runtime.check(runtime.GetTensorElementType(info, byref(element)))
        runtime.check(runtime.GetDimensionsCount(info, byref(count)))
        sizes = (c_int64 * count.value)()
        runtime.check(runtime.GetDimensions(info, sizes, count.value))
        return TensorType(_NAMES.get(element.value), tuple(sizes))

    def run(
        self, feeds: Sequence[tuple[str, str, Sequence[Any]]], rows: int, output: str, seconds: float | None = None
    ) -> list[float]:
        """Run the model on some rows and return the numbers of one output, row by row.

        Args:
            feeds: for each input its name, its element type, and its values row by row: numbers (an `array` of the
                type is used without a copy), or texts as bytes.
            rows: number of rows; each input has a multiple of it.
            output: the output's name.
            seconds: time limit, checked between the nodes of the graph; None for no limit.

        Raises:
            RuntimeFailed: the runtime refused a row or exceeded the time limit, or the output is not a tensor of floats
                of shape [rows] or [rows, columns].
        """
        with self._lock:
            return self._run(feeds, rows, output, seconds)

    def _run(
        self, feeds: Sequence[tuple[str, str, Sequence[Any]]], rows: int, output: str, seconds: float | None
    ) -> list[float]:
        runtime: Any = self._runtime
        values = (c_void_p * len(feeds))()
        buffers = []  # alive until the run ends
        result = c_void_p()
        options, timer = None, None
        try:
            for number, (_, kind, cells) in enumerate(feeds):
                shape = (c_int64 * 2)(rows, len(cells) // rows)
                place = ctypes.c_void_p.from_buffer(values, number * ctypes.sizeof(c_void_p))
                element, code = _ELEMENTS[kind]
                if not code:
                    texts = (c_char_p * len(cells))(*cells)
                    runtime.call("CreateTensorAsOrtValue", runtime.allocator, shape, 2, element, byref(place))
                    runtime.call("FillStringTensor", place, texts, len(cells))
                    continue
                buffer = cells if isinstance(cells, array) and cells.typecode == code else array(code, cells)
                buffers.append(buffer)
                address, length = buffer.buffer_info()
                status = runtime.CreateTensorWithDataAsOrtValue(
                    runtime.memory, address, length * buffer.itemsize, shape, 2, element, byref(place)
                )
                runtime.check(status)
            names = (c_char_p * len(feeds))(*[name.encode() for name, _, _ in feeds])
            asked = (c_char_p * 1)(output.encode())
            if seconds is not None:
                options, timer = self._limit(seconds)
            runtime.check(runtime.Run(self._handle, options, names, values, len(feeds), asked, 1, byref(result)))
            return self._read(result, rows)
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
            if options is not None:
                runtime.ReleaseRunOptions(options)
            for value in (*values, result.value):
                if value:
                    runtime.ReleaseValue(value)

    def _limit(self, seconds: float) -> tuple[c_void_p, Any]:
        from threading import Timer

        runtime: Any = self._runtime
        options = c_void_p()
        runtime.call("CreateRunOptions", byref(options))
        timer = Timer(seconds, runtime.call, ("RunOptionsSetTerminate", options))
        timer.daemon = True
        timer.start()
        return options, timer

    def _read(self, value: c_void_p, rows: int) -> list[float]:
        runtime: Any = self._runtime
        is_tensor, info, data = c_int(), c_void_p(), c_void_p()
        runtime.check(runtime.IsTensor(value, byref(is_tensor)))
        if not is_tensor.value:
            raise RuntimeFailed("the output is not a tensor")
        runtime.check(runtime.GetTensorTypeAndShape(value, byref(info)))
        try:
            kind, shape = self._read_type(info)
        finally:
            runtime.ReleaseTensorTypeAndShapeInfo(info)
        if kind not in ("float", "double") or not shape or shape[0] != rows or len(shape) > 2:
            raise RuntimeFailed(f"the output is {kind} {list(shape)}; expected float or double [{rows}, columns]")
        count = rows * (shape[1] if len(shape) == 2 else 1)
        if not count:
            return []
        runtime.check(runtime.GetTensorMutableData(value, byref(data)))
        kinds: dict[str, Any] = {"float": ctypes.c_float, "double": ctypes.c_double}
        return list((kinds[kind] * count).from_address(data.value))


def find_library(folders: Sequence[str] = tuple(sys.path)) -> str:
    """Return the path of the library: in `onnxruntime/capi` of the bundle, or of an installed onnxruntime.

    Raises:
        RuntimeFailed: it is not there.
    """
    for folder in folders:
        capi = os.path.join(folder or ".", "onnxruntime", "capi")
        if os.path.isdir(capi):
            for name in sorted(os.listdir(capi)):
                if name.startswith(LIBRARY):
                    return os.path.join(capi, name)
    raise RuntimeFailed(f"no onnxruntime/capi/{LIBRARY}* on the path: `pip install onnxruntime` on a laptop")


@cache
def open_runtime() -> Runtime:
    """Load the library, once.

    Raises:
        RuntimeFailed: it is not there, can't be loaded, or is too old.
    """
    return Runtime(find_library())


def check_places(header: str) -> list[str]:
    """Return the differences between `_PLACES` and the text of a C header of ONNX Runtime."""
    import re

    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    _, _, table = text.partition("struct OrtApi {")
    table, _, _ = table.partition("\n};")
    members = re.finditer(
        r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE2?\((\w+)\)|\(\s*ORT_API_CALL\s*\*\s*(\w+)\)", table
    )
    names = [one or (two and f"Release{two}") or three for one, two, three in (each.groups() for each in members)]
    return [
        f"{name}: is at {names.index(name) if name in names else 'no place'}, not at {place}"
        for name, place in _PLACES.items()
        if place >= len(names) or names[place] != name
    ]


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.exit("\n".join(check_places(file.read())) or 0)
