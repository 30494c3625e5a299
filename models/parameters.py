"""Making parameters: random, placed on a mesh, or as shapes only."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, Sharding

from models.sharding import named_sharding

# Axis name -> size, in the order of the axes.
Axes = Mapping[str, int]
# Inputs up to which a kernel may lie by outputs: with longer rows a CPU's products of few rows are slower so.
LONGEST = 2560


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the parameters of a network.

    Every parameter carries the names of its axes (its `out_sharding`), which `models.sharding` maps to mesh axes.

    Attributes:
      rngs: keys come from its `params` stream; None makes `jax.ShapeDtypeStruct`s.
      dtype: of the parameters.
      std: standard deviation of normal ones.
      mesh: where to place them; None: the default device.
      stack: leading axes of all parameters, e.g. {"layers": l}.
      int8: whether the kernels of the layers' projections are int8 with a scale for each output.
      outputs_first: whether kernels of up to `LONGEST` inputs lie as [*outputs, *inputs]; int8 ones never do.
    """

    rngs: nnx.Rngs | None
    dtype: jnp.dtype
    std: float
    mesh: Mesh | None = None
    stack: Axes = dataclasses.field(default_factory=dict)
    int8: bool = False
    outputs_first: bool = False

    def stacked(self, axis: str, size: int) -> "Maker":
        """Makes the parameters of `size` modules at once, with one more leading axis."""
        return dataclasses.replace(self, stack={**self.stack, axis: size})

    def normal(self, axes: Axes) -> nnx.Param:
        """Normal with deviation `std`, drawn in float32."""
        return self._make("normal", axes, self.dtype)

    def zeros(self, axes: Axes) -> nnx.Param:
        return self._make("zeros", axes, self.dtype)

    def ones(self, axes: Axes) -> nnx.Param:
        return self._make("ones", axes, self.dtype)

    def kernel(self, inputs: Axes, outputs: Axes) -> tuple[nnx.Param, nnx.Param | None]:
        """Kernel [*inputs, *outputs] of a projection, or [*outputs, *inputs] where its metadata `outputs_first` is true;
        and its scale, float32 [*outputs], if it is int8.
        """
        axes = {**inputs, **outputs}
        if not self.int8:
            if self.outputs_first and math.prod(inputs.values()) <= LONGEST:
                return self._make("normal", {**outputs, **inputs}, self.dtype, outputs_first=True), None
            return self.normal(axes), None
        return self._make("int8", axes, jnp.int8), self._make("int8_scale", outputs, jnp.float32)

    def _make(self, kind: str, axes: Axes, dtype: jnp.dtype, outputs_first: bool = False) -> nnx.Param:
        pairs = [*self.stack.items(), *axes.items()]
        names, shape = tuple(name for name, _ in pairs), tuple(size for _, size in pairs)
        if self.rngs is None:
            value = jax.ShapeDtypeStruct(shape, dtype)
        else:
            sharding = None if self.mesh is None else named_sharding(names, shape, self.mesh)
            value = _initialiser(kind, shape, jnp.dtype(dtype), sharding)(self.rngs.params(), self.std)
        # The sharding is decided here or by the loader, not by flax when a variable is made.
        return nnx.Param(value, out_sharding=names, eager_sharding=False, outputs_first=outputs_first)


@functools.cache
def _initialiser(kind: str, shape: tuple[int, ...], dtype: jnp.dtype, sharding: Sharding | None):
    """A compiled function of a key and a standard deviation; one for each shape."""

    def make(key: jax.Array, std: float) -> jax.Array:
        if kind == "normal":
            return (std * jax.random.normal(key, shape, jnp.float32)).astype(dtype)
        if kind == "int8":
            return jax.random.randint(key, shape, -127, 128, dtype)
        # int8 values from -127 to 127 have the standard deviation 127 / sqrt(3), about.
        value = {"zeros": 0.0, "ones": 1.0, "int8_scale": std * 3**0.5 / 127}[kind]
        return jnp.full(shape, value, dtype)

    return jax.jit(make, out_shardings=sharding)
