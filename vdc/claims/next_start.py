"""What a machine was to have from its next start on (vdc/claims/resize.py), when that start is claimed."""

from __future__ import annotations

from dataclasses import replace

from vdc import specs
from vdc.model import VmSpec
from vdc.schema import Vm


def take_next(vm: Vm) -> VmSpec:
    """A machine that is about to be started anew has what it was to have from then on."""
    spec = specs.load(vm.spec)
    if vm.next_vcpu is None and vm.next_memory_mib is None:
        return spec
    spec = replace(spec, vcpu=vm.next_vcpu or vm.vcpu, memory_mib=vm.next_memory_mib or vm.memory_mib)
    vm.vcpu, vm.memory_mib, vm.spec = spec.vcpu, spec.memory_mib, specs.dump(spec)
    vm.next_vcpu = vm.next_memory_mib = None
    return spec
