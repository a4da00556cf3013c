// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {LeaseOrders} from "../interfaces/IComputeEscrow.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Orders} from "../libraries/Orders.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Leases} from "./Leases.sol";

/// @title Extended
/// @notice What the parts of the extension have in common.
abstract contract Extended is Leases {
    /// @dev Reverts where this code does not run for the escrow.
    modifier forEscrow() virtual;

    /// @dev Passes where the account calls itself, or has signed.
    function _requireConsent(address account, bytes32 structHash, bytes calldata signature) internal view {
        if (msg.sender == account) return;
        if (!SignatureChecker.isValidSignatureNowCalldata(account, _hashTypedDataV4(structHash), signature)) {
            revert InvalidSignature(account);
        }
    }

    /// @dev The lease that was opened from these orders.
    function _resolve(LeaseOrders calldata orders) internal pure returns (bytes16 leaseNo, LeaseBox storage box) {
        bytes32 ordersHash = Orders.pairHash(orders.bidHash, Orders.hash(orders.ask));
        leaseNo = Orders.leaseNo(ordersHash, orders.ask.meter);
        box = _lease(orders.buyer, orders.ask.provider, orders.witness, leaseNo);
    }
}
