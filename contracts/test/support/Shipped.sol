// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {Terms} from "../../src/escrow/Ledger.sol";
import {IComputeEscrow} from "../../src/interfaces/IComputeEscrow.sol";

/// @dev The escrow as it is deployed, or its error. Tests are compiled without the optimizer, in a quarter of the time;
/// `new` would compile the escrow as they are.
function newEscrow(Vm vm, Terms memory terms) returns (IComputeEscrow escrow) {
    bytes memory code = abi.encodePacked(vm.getCode("out/ComputeEscrow.sol/ComputeEscrow.json"), abi.encode(terms));
    assembly ("memory-safe") {
        escrow := create(0, add(code, 0x20), mload(code))
        if iszero(escrow) {
            returndatacopy(mload(0x40), 0, returndatasize())
            revert(mload(0x40), returndatasize())
        }
    }
}
