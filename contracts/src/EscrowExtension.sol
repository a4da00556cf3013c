// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Amending} from "./escrow/Amending.sol";
import {Deposits} from "./escrow/Deposits.sol";
import {Ledger, Terms} from "./escrow/Ledger.sol";
import {Views} from "./escrow/Views.sol";

/// @title EscrowExtension
/// @notice The escrow's code for what is called seldom and for what only reads: top-ups, cancelling, two more ways to
/// deposit. It is run by the escrow, on the escrow's storage.
/// @dev Called at its own address it refuses whatever would write. Its immutables equal the escrow's, which makes it.
contract EscrowExtension is Deposits, Amending, Views {
    address private immutable ESCROW;

    constructor(Terms memory terms) Ledger(terms) {
        ESCROW = msg.sender;
    }

    /// @dev Whether this code runs for the escrow.
    modifier forEscrow() override {
        if (address(this) != ESCROW) revert NotTheEscrow(ESCROW, address(this));
        _;
    }
}
