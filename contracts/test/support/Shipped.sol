// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {IComputeEscrow, Terms} from "../../src/interfaces/IComputeEscrow.sol";

/// @dev The escrow as it is deployed, on an extension of its own, or its error. Tests are compiled without the optimizer,
/// in a quarter of the time; `new` would compile the escrow as they are.
function newEscrow(Vm vm, Terms memory terms) returns (IComputeEscrow) {
    return newEscrow(vm, terms, newExtension(vm, terms));
}

/// @dev As `newEscrow` on this extension.
function newEscrow(Vm vm, Terms memory terms, address extension) returns (IComputeEscrow) {
    bytes memory code = vm.getCode("out/ComputeEscrow.sol/ComputeEscrow.json");
    return IComputeEscrow(deploy(abi.encodePacked(code, abi.encode(terms, extension))));
}

/// @dev The extension as it is deployed, or its error.
function newExtension(Vm vm, Terms memory terms) returns (address) {
    return deploy(abi.encodePacked(vm.getCode("out/EscrowExtension.sol/EscrowExtension.json"), abi.encode(terms)));
}

/// @dev Deploys, or reverts as the constructor does.
function deploy(bytes memory code) returns (address deployed) {
    assembly ("memory-safe") {
        deployed := create(0, add(code, 0x20), mload(code))
        if iszero(deployed) {
            returndatacopy(mload(0x40), 0, returndatasize())
            revert(mload(0x40), returndatasize())
        }
    }
}
