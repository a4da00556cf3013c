// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowExtension, LeaseOrders, LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Extended} from "./Extended.sol";

/// @title Amending
/// @notice Orders that are cancelled, leases that are topped up.
abstract contract Amending is Extended, IEscrowExtension {
    bytes32 private constant CANCEL_TYPEHASH = keccak256("Cancel(address account,uint64 salt,bool andOlder)");

    /* CANCEL */

    /// @inheritdoc IEscrowExtension
    function cancel(address account, uint64 salt, bool andOlder, bytes calldata signature) external forEscrow {
        _requireConsent(account, keccak256(abi.encode(CANCEL_TYPEHASH, account, salt, andOlder)), signature);

        if (andOlder) {
            Check.atMost(type(uint64).max - 1, salt, SaltTooLarge.selector);
            if (_accounts[account].ordersFrom <= salt) _accounts[account].ordersFrom = salt + 1;
        } else {
            (uint256 word, uint256 opened) = _orderBits(salt);
            _orders[account][word] |= opened << 1;
        }

        emit OrderCancelled(account, salt, andOlder);
    }

    /* TOP-UP */

    /// @inheritdoc IEscrowExtension
    function topUp(LeaseOrders calldata orders, Bid calldata bid, uint16 seat, uint32 seconds_) external forEscrow {
        (bytes16 leaseNo, LeaseBox storage box) = _resolve(orders);
        LeaseSlot slot = box.slot;

        if (msg.sender != orders.buyer) revert NotBuyer(orders.buyer, msg.sender);
        if (slot.state() != LeaseState.Active) revert LeaseNotActive(leaseNo, slot.state());
        if (block.timestamp >= slot.end()) Check.fail(slot.end(), block.timestamp, LeaseEnded.selector);
        if (seconds_ == 0) revert ZeroAmount();
        uint256 funded = slot.funded() + seconds_;
        Check.atMost(_mostFunded(orders.ask), funded, DurationTooLong.selector);

        LeaseSlot next = slot.withEnd(slot.end() + seconds_);
        uint256 locked = next.fullTime(SCALE) - slot.fullTime(SCALE);
        uint256 most = _spentBefore(orders, bid, seat, leaseNo) + _fullCost(box, next);
        Check.atMost(bid.budget / bid.nodes, most, BudgetTooSmall.selector);

        _debit(orders.buyer, locked);
        box.slot = next;

        emit ToppedUp(leaseNo, orders.buyer, orders.ask.provider, uint40(next.end()), locked);
    }

    function _mostFunded(Ask calldata ask) private pure returns (uint256) {
        return _min(uint256(ask.maxSeconds) + ask.startLimitSeconds, Orders.MAX_FUNDED_SECONDS);
    }

    /// @dev Atoms that the seat's earlier leases may have paid, provided that the lease is the seat's latest.
    function _spentBefore(LeaseOrders calldata orders, Bid calldata bid, uint16 seat, bytes16 leaseNo)
        private
        view
        returns (uint256)
    {
        bytes32 bidHash = Orders.hash(bid);
        if (bidHash != orders.bidHash) revert BidMismatch(orders.bidHash, bidHash);
        if (seat >= bid.nodes) Check.fail(bid.nodes, seat, SeatOutOfRange.selector);
        BidRecord storage record = _bids[_seatKey(bidHash, seat)];
        bytes16 latest = record.latest;
        if (latest != leaseNo && (latest != 0 || bid.nodes > 1)) revert NotLatestLease(latest, leaseNo);
        return record.spentBefore;
    }
}
