// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";

import {Amending} from "./escrow/Amending.sol";
import {Deposits} from "./escrow/Deposits.sol";
import {Ledger} from "./escrow/Ledger.sol";
import {Metering} from "./escrow/Metering.sol";
import {Purses} from "./escrow/Purses.sol";
import {Views} from "./escrow/Views.sol";
import {IEscrowExtension, Terms} from "./interfaces/IComputeEscrow.sol";

/// @title EscrowExtension
/// @notice The escrow's code for what is called seldom and for what only reads. It is run by the escrow, on the escrow's
/// storage.
/// @dev Called at its own address it refuses whatever would write. The escrow checks that its terms are equal.
contract EscrowExtension is Metering, Deposits, Purses, Amending, Views {
    constructor(Terms memory terms_) Ledger(terms_) {}

    /// @inheritdoc IEscrowExtension
    function multicall(bytes[] calldata calls) external forEscrow {
        for (uint256 i = 0; i < calls.length; i++) {
            Address.functionDelegateCall(address(this), calls[i]);
        }
    }
}
