// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ending} from "./escrow/Ending.sol";
import {Funds} from "./escrow/Funds.sol";
import {Ledger} from "./escrow/Ledger.sol";
import {Opening} from "./escrow/Opening.sol";
import {Settling} from "./escrow/Settling.sol";
import {IEscrowCore, IEscrowExtension, Terms} from "./interfaces/IComputeEscrow.sol";

/// @title ComputeEscrow
/// @notice Holds buyers' tokens and releases them to providers for usage that the buyer's witness signed. `IComputeEscrow`
/// describes what it does. The code is in `escrow/`: Ledger, then Leases, then Funds, Opening, Settling and Ending.
/// @dev Every action does the same in the same order: resolve the lease, check, compute, write, emit, call out. Functions
/// that are seldom called are code of the extension, which is deployed before the escrow and can never change: one
/// contract cannot hold them all (EIP-170).
contract ComputeEscrow is Funds, Opening, Settling, Ending {
    address private immutable EXTENSION;

    constructor(Terms memory terms, address extension_) Ledger(terms) {
        if (extension_.code.length == 0) revert TermsDiffer(extension_);
        bytes32 theirs = keccak256(abi.encode(IEscrowExtension(extension_).terms()));
        if (theirs != keccak256(abi.encode(terms))) revert TermsDiffer(extension_);
        EXTENSION = extension_;
    }

    /// @inheritdoc IEscrowCore
    function extension() external view returns (address) {
        return EXTENSION;
    }

    /// @dev Runs the extension's code, on this storage and for this sender, for every function that is not defined here.
    fallback() external {
        address code = EXTENSION;
        assembly {
            // The whole of memory is the call's: nothing of Solidity's runs after this.
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), code, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if ok { return(0, returndatasize()) }
            revert(0, returndatasize())
        }
    }
}
