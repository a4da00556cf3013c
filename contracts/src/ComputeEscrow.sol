// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {Accounts} from "./escrow/Accounts.sol";
import {Ending} from "./escrow/Ending.sol";
import {Opening} from "./escrow/Opening.sol";
import {Settling} from "./escrow/Settling.sol";

/// @title ComputeEscrow
/// @notice Holds buyers' tokens and releases them to providers on usage that the buyer's witness signed. What it does
/// is said in `IComputeEscrow`; how, in `escrow/`: Accounts, Leases over them, and Opening, Settling, Ending on top.
/// @dev Every action runs in one order: resolve the lease, check, compute, write, emit, call out.
contract ComputeEscrow is Opening, Settling, Ending {
    /// @param token Pays for everything; at most 18 decimals.
    /// @param feeBps Part of providers' income that is held for the fee recipient, at most 1000.
    /// @param settleWindow Seconds after a lease's end in which usage is still settled.
    /// @param disputeWindow Seconds after a claim in which it may be contested.
    /// @param rulingWindow Seconds after a contest in which the arbiter may rule.
    constructor(
        address token,
        uint256 feeBps,
        address feeRecipient,
        uint256 settleWindow,
        uint256 disputeWindow,
        uint256 rulingWindow
    ) Accounts(token, feeBps, feeRecipient, settleWindow, disputeWindow, rulingWindow) EIP712("Coulomb", "1") {}
}
