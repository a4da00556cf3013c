// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Claim, IEscrowExtension, LeaseOrders, LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Units} from "../libraries/Units.sol";
import {Extended} from "./Extended.sol";

/// @title Claiming
/// @notice What a provider may do for time that no witness signed: claim a little of it, against a bond.
/// @dev Both bonds equal the amount claimed. A ruling gives the provider one part of amount and bonds alike, so who is
/// wrong loses as much again.
abstract contract Claiming is Extended, IEscrowExtension {
    /// @dev Two intervals of the longest usual length: for longer nobody works without a countersignature.
    uint256 private constant CLAIM_MS_MAX = 120_000;

    bytes32 private constant RULING_TYPEHASH =
        keccak256("Ruling(address buyer,address provider,bytes16 leaseNo,uint128 award)");

    /* CLAIM */

    /// @inheritdoc IEscrowExtension
    function claim(LeaseOrders calldata orders, uint64 ms) external forEscrow {
        (bytes16 leaseNo, LeaseBox storage box) = _resolve(orders);
        LeaseSlot slot = box.slot;

        if (msg.sender != orders.ask.provider) revert NotProvider(orders.ask.provider, msg.sender);
        if (orders.ask.arbiter == address(0)) revert NoArbiter();
        _requireOpen(slot, leaseNo);
        Check.atMost(slot.end() + SETTLE_WINDOW, block.timestamp, ClaimTooLate.selector);
        LeaseSlot next = slot.withEnd(_min(slot.end(), block.timestamp)).withClaim();
        uint256 amount = _claimable(next, ms);
        uint256 refunded = _fullCost(box, slot) - _released(box, slot) - amount;
        uint40 until = uint40(block.timestamp + DISPUTE_WINDOW);

        box.slot = next;
        box.claimed = Claim(uint128(amount), until);
        _debit(msg.sender, amount);
        _free(msg.sender, slot);
        _credit(orders.buyer, refunded);

        emit Claimed(leaseNo, orders.buyer, msg.sender, ms, uint40(next.end()), amount, refunded, until);
    }

    /// @dev Atoms that time up to `ms` costs on top of what was paid: by the rate alone.
    function _claimable(LeaseSlot slot, uint256 ms) private view returns (uint256 amount) {
        uint256 used = slot.usedMs();
        Check.atMost(_min(used + CLAIM_MS_MAX, slot.funded() * Units.MS), ms, ClaimTooLarge.selector);
        (uint256 paid, uint256 total) = (slot.paidTime(SCALE), Units.costDown(slot.rate(), ms, SCALE));
        if (total <= paid) Check.fail(used, ms, NothingClaimed.selector);
        return total - paid;
    }

    /* CONTEST */

    /// @inheritdoc IEscrowExtension
    function contest(address buyer, address provider, address witness, bytes16 leaseNo) external forEscrow {
        LeaseBox storage box = _lease(buyer, provider, witness, leaseNo);
        LeaseSlot slot = box.slot;
        Claim memory claimed = box.claimed;

        if (msg.sender != buyer) revert NotBuyer(buyer, msg.sender);
        if (slot.state() != LeaseState.Claimed) revert LeaseNotClaimed(leaseNo, slot.state());
        Check.atMost(claimed.until, block.timestamp, ContestTooLate.selector);
        uint40 until = uint40(block.timestamp + RULING_WINDOW);

        box.slot = slot.withState(LeaseState.Contested);
        box.claimed.until = until;
        _debit(buyer, claimed.amount);

        emit Contested(leaseNo, buyer, provider, claimed.amount, until);
    }

    /* ENDS */

    /// @inheritdoc IEscrowExtension
    function rule(LeaseOrders calldata orders, uint128 award, bytes calldata signature) external forEscrow {
        (bytes16 leaseNo, LeaseBox storage box) = _resolve(orders);
        LeaseState state = box.slot.state();
        Claim memory claimed = box.claimed;

        _requireConsent(
            orders.ask.arbiter,
            keccak256(abi.encode(RULING_TYPEHASH, orders.buyer, orders.ask.provider, leaseNo, award)),
            signature
        );
        if (state != LeaseState.Contested) revert LeaseNotContested(leaseNo, state);
        Check.atMost(claimed.until, block.timestamp, RulingTooLate.selector);
        Check.atMost(claimed.amount, award, AwardTooLarge.selector);

        uint256 refunded = 3 * (uint256(claimed.amount) - award);
        _end(box, leaseNo, orders.buyer, orders.ask.provider, Shares(award, 2 * uint256(award), refunded));
    }

    /// @inheritdoc IEscrowExtension
    function closeClaim(address buyer, address provider, address witness, bytes16 leaseNo) external forEscrow {
        LeaseBox storage box = _lease(buyer, provider, witness, leaseNo);
        LeaseState state = box.slot.state();
        Claim memory claimed = box.claimed;

        bool contested = state == LeaseState.Contested;
        if (!contested && state != LeaseState.Claimed) revert LeaseNotClaimed(leaseNo, state);
        if (block.timestamp <= claimed.until) {
            Check.fail(claimed.until, block.timestamp, ClaimCloseTooEarly.selector);
        }

        uint256 amount = claimed.amount;
        Shares memory shares = contested ? Shares(0, amount, 2 * amount) : Shares(amount, amount, 0);
        _end(box, leaseNo, buyer, provider, shares);
    }

    /// @dev How amount and bonds are divided: `awarded` and `bonds` to the provider, `refunded` to the buyer.
    struct Shares {
        uint256 awarded;
        uint256 bonds;
        uint256 refunded;
    }

    function _end(LeaseBox storage box, bytes16 leaseNo, address buyer, address provider, Shares memory shares)
        private
    {
        LeaseSlot slot = box.slot;
        uint256 paid = slot.paidTime(SCALE);

        box.slot = slot.withState(LeaseState.Closed);
        box.claimed = Claim(uint128(shares.awarded), 0);
        _pay(provider, shares.awarded, _feeGrowth(paid, paid + shares.awarded));
        _credit(provider, shares.bonds);
        _credit(buyer, shares.refunded);

        emit ClaimClosed(leaseNo, buyer, provider, shares.awarded, shares.bonds, shares.refunded);
    }
}
