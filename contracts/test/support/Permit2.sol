// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

/// @notice The real Permit2, made from the creation code that a pinned npm package carries.
library Permit2 {
    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    address internal constant AT = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
    /// @dev Who deployed it everywhere, and with what salt: so the address proves the code (EIP-1014).
    address internal constant DEPLOYER = 0x4e59b44847b379578588920cA78FbF26c0B4956C;
    bytes32 internal constant SALT = 0x0000000000000000000000000000000000000000d3af2663da51c10215000000;

    string private constant FILE =
        "node_modules/hardhat-predeploy/bin/0x000000000022D473030F116dDEE9F6B43aC78BA3.bytecode";

    function creationCode() internal view returns (bytes memory) {
        return VM.readFileBinary(FILE);
    }

    /// @dev Runs the constructor at the well-known address, because the domain separator depends on it.
    function deploy() internal {
        VM.etch(AT, creationCode());
        (bool ok, bytes memory code) = AT.call("");
        require(ok, "Permit2");
        VM.etch(AT, code);
    }
}
