// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    IEscrowExtension,
    LeaseKey,
    LeaseState,
    Numbered,
    Purse,
    Relay
} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Extended} from "./Extended.sol";

/// @title Amending
/// @notice Orders and signed calls that are cancelled, leases that are topped up.
abstract contract Amending is Extended, IEscrowExtension {
    bytes32 private constant CANCEL_TYPEHASH =
        keccak256("Cancel(address account,uint8 kind,uint64 salt,bool andOlder)");
    bytes32 private constant TOP_UP_TYPEHASH = keccak256(
        "TopUp(address buyer,address provider,bytes16 leaseNo,uint32 addSeconds,uint64 salt,uint40 deadline,"
        "address relayer,uint96 fee)"
    );

    /// @dev A lease, found by what it was opened from, and by how much it is extended.
    struct Extension {
        address buyer;
        address provider;
        bytes16 leaseNo;
        bytes32 bidHash;
        uint16 seat;
        uint32 addSeconds;
    }

    /* CANCEL */

    /// @inheritdoc IEscrowExtension
    function cancel(address account, Numbered kind, uint64 salt, bool andOlder, bytes calldata signature)
        external
        forEscrow
    {
        bytes32 structHash = keccak256(abi.encode(CANCEL_TYPEHASH, account, kind, salt, andOlder));
        _requireConsent(account, _hashTypedDataV4(structHash), signature);

        if (andOlder) {
            Check.atMost(type(uint64).max - 1, salt, SaltTooLarge.selector);
            if (_saltsFrom(account, kind) <= salt) {
                if (kind == Numbered.Orders) _accounts[account].ordersFrom = salt + 1;
                else _callsFrom[account] = salt + 1;
            }
        } else {
            (uint256 word, uint256 used) = _saltBits(kind, salt);
            _salts[account][word] |= used << 1;
        }

        emit Cancelled(account, kind, salt, andOlder);
    }

    /* TOP-UP */

    /// @inheritdoc IEscrowExtension
    function topUp(Ask calldata ask, Bid calldata bid, bytes32 pricesHash, uint16 seat, uint32 seconds_)
        external
        forEscrow
    {
        Extension memory added = _extension(ask, bid, pricesHash, seat, seconds_);
        if (msg.sender != added.buyer) {
            Purse memory owned = _livePurse(added.buyer);
            if (msg.sender != owned.operator && msg.sender != owned.owner) revert NotBuyer(added.buyer, msg.sender);
        }
        _topUp(ask, bid, added);
    }

    /// @inheritdoc IEscrowExtension
    function topUpBySignature(
        Ask calldata ask,
        Bid calldata bid,
        bytes32 pricesHash,
        uint16 seat,
        uint32 seconds_,
        Relay calldata relay,
        bytes calldata signature
    ) external forEscrow {
        Extension memory added = _extension(ask, bid, pricesHash, seat, seconds_);
        _requirePayer(added, relay, signature);
        _relayed(added.buyer, relay);
        _topUp(ask, bid, added);
    }

    /// @dev Reverts unless the buyer signed, or, for a purse that may still spend, its owner, or its operator without a fee.
    function _requirePayer(Extension memory added, Relay calldata relay, bytes calldata signature) private view {
        bytes32 digest = _hashTypedDataV4(
            keccak256(
                abi.encode(
                    TOP_UP_TYPEHASH,
                    added.buyer,
                    added.provider,
                    added.leaseNo,
                    added.addSeconds,
                    relay.salt,
                    relay.deadline,
                    relay.relayer,
                    relay.fee
                )
            )
        );
        if (_signed(added.buyer, digest, signature)) return;
        Purse memory owned = _livePurse(added.buyer);
        if (_signed(owned.owner, digest, signature)) return;
        if (relay.fee != 0 || !_signed(owned.operator, digest, signature)) revert InvalidSignature(added.buyer);
    }

    function _extension(Ask calldata ask, Bid calldata bid, bytes32 pricesHash, uint16 seat, uint32 seconds_)
        private
        pure
        returns (Extension memory)
    {
        bytes32 bidHash = Orders.hash(bid);
        bytes32 termsHash = Orders.termsHash(bidHash, Orders.hash(ask), pricesHash, seat);
        return Extension(bid.buyer, ask.provider, Orders.leaseNo(termsHash, ask.meter), bidHash, seat, seconds_);
    }

    function _topUp(Ask calldata ask, Bid calldata bid, Extension memory added) private {
        bytes16 leaseNo = added.leaseNo;
        LeaseBox storage box = _lease(LeaseKey(added.buyer, added.provider, bid.witness, leaseNo));
        LeaseSlot slot = box.slot;

        if (slot.state() != LeaseState.Active) revert LeaseNotActive(leaseNo, slot.state());
        if (block.timestamp >= slot.end()) Check.fail(slot.end(), block.timestamp, LeaseEnded.selector);
        if (added.addSeconds == 0) revert ZeroAmount();
        uint256 most = _min(ask.maxSeconds, Orders.MAX_PAID_SECONDS);
        Check.atMost(most, slot.paidSeconds() + added.addSeconds, DurationTooLong.selector);

        LeaseSlot next = slot.extended(added.addSeconds);
        uint256 locked = next.fullTime(SCALE) - slot.fullTime(SCALE);
        // An active lease is its seat's latest: one that another followed was marked, which no active lease is.
        uint256 required = _bids[_seatKey(added.bidHash, added.seat)].spentBefore + _fullCost(box, next);
        Check.atMost(bid.budget / bid.nodes, required, BudgetTooSmall.selector);

        _debit(added.buyer, locked);
        box.slot = next;

        emit ToppedUp(leaseNo, added.buyer, added.provider, uint40(next.end()), locked);
    }
}
