"""Run a script under FSDP2 or DeepSpeed on the CPU, which accelerate refuses or does not know.

`torchrun --nproc_per_node 2 tests/support/sharded_on_cpu.py script.py ...` lets CPUs into accelerate's FSDP branch,
and gives DeepSpeed the backend gloo. Accelerate's source is patched in memory, for this process alone. Such a run
proves wrapping, gathering and the order of calls; it proves nothing about GPUs.
"""

import runpy
import sys
from importlib.machinery import PathFinder, SourceFileLoader

PATCHES = {
    b"                DistributedType.MULTI_NEURON,\n            ]:\n": (
        b"                DistributedType.MULTI_NEURON,\n                DistributedType.MULTI_CPU,\n            ]:\n"
    ),
    b"            self.backend = backend\n": b'            self.backend = backend or "gloo"\n',
}


class PatchedLoader(SourceFileLoader):
    def get_code(self, fullname):
        source = self.get_data(self.path)
        for old, new in PATCHES.items():
            assert source.count(old) == 1, f"accelerate has changed: {old!r}"
            source = source.replace(old, new)
        return self.source_to_code(source, self.path)


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "accelerate.state":
            return None
        spec = PathFinder.find_spec(name, path)
        spec.loader = PatchedLoader(name, spec.origin)
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
