"""Writes the files of tests/data/sources with NumPy, safetensors and Pillow: `python tests/data/sources.py`."""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

here = Path(__file__).parent / "sources"
here.mkdir(exist_ok=True)

arrays = {
    "f32": np.array([[1.5, -2.0, np.inf], [0.1, 3e38, -0.0]], dtype=np.float32),
    "f64": np.array([np.pi, -1e300]),
    "i64": np.array([[[1], [-(2**63)]], [[2**63 - 1], [0]]], dtype=np.int64),
    "i32": np.array(-7, dtype=np.int32),
    "u8": np.arange(6, dtype=np.uint8).reshape(1, 6),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 3), dtype=np.float32),
}
for name, array in arrays.items():
    np.save(here / f"{name}.npy", array)
np.save(here / "fortran.npy", np.asfortranarray(np.arange(24, dtype=np.int32).reshape(2, 3, 4)))
np.save(here / "big_endian.npy", np.array([1.5, -2.0], dtype=">f8"))
np.save(here / "half.npy", np.array([1.5], dtype=np.float16))
with open(here / "version2.npy", "wb") as file:
    np.lib.format.write_array(file, arrays["u8"], version=(2, 0))
np.savez(here / "stored.npz", **arrays)
np.savez_compressed(here / "deflated.npz", **arrays)

save_file(arrays, here / "arrays.safetensors")
save_file({"half": np.array([1.5], dtype=np.float16)}, here / "half.safetensors")

y, x = np.mgrid[0:4, 0:6]
pixels = np.stack([x * 40, y * 60, x * y * 10], axis=-1).astype(np.uint8)
Image.fromarray(pixels).save(here / "colours.png")
Image.fromarray(pixels).convert("L").save(here / "grey.png")
Image.fromarray(np.full((8, 8, 3), (200, 100, 50), dtype=np.uint8)).save(here / "flat.jpg", quality=95)
