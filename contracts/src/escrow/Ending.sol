// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {CloseData, IEscrowCore, LeaseKey, LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Entries} from "../libraries/Entries.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {Leases} from "./Leases.sol";

/// @title Ending
/// @notice How leases stop and close.
abstract contract Ending is Leases, IEscrowCore {
    using Entries for bytes;

    bytes32 private constant STOP_TYPEHASH =
        keccak256("Stop(address buyer,address provider,bytes16 leaseNo,bool again,uint40 deadline)");
    bytes32 private constant CLOSE_TYPEHASH = keccak256(
        "Close(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units,bool again)"
    );

    /* STOP */

    /// @inheritdoc IEscrowCore
    function stop(LeaseKey calldata key, bool again) external {
        bool provider = msg.sender == key.provider && !again; // only the buyer's side lets a seat open again
        if (!provider && msg.sender != key.witness && !_speaksFor(key.buyer, msg.sender)) revert NotAParty(msg.sender);
        _stop(key, again);
    }

    /// @inheritdoc IEscrowCore
    function stopBySignature(
        LeaseKey calldata key,
        bool again,
        uint40 deadline,
        bytes32 termsHash,
        bytes calldata signature
    ) external {
        Check.atMost(deadline, block.timestamp, SignatureExpired.selector);
        bytes32 structHash = keccak256(abi.encode(STOP_TYPEHASH, key.buyer, key.provider, key.leaseNo, again, deadline));
        bytes32 digest = _hashTypedDataV4(structHash);
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        bool hot = signer != address(0)
            && (signer == key.witness || (!again && Orders.leaseNo(termsHash, signer) == key.leaseNo));
        if (!hot) _requireConsent(key.buyer, digest, signature);
        _stop(key, again);
    }

    function _stop(LeaseKey calldata key, bool again) private {
        LeaseBox storage box = _lease(key);
        LeaseSlot slot = box.slot;

        LeaseState state = slot.state();
        bool active = state == LeaseState.Active;
        if (!active && (!again || state == LeaseState.None)) revert LeaseNotActive(key.leaseNo, state);

        if (active) slot = _halt(box, slot, key, _min(slot.end(), block.timestamp));
        if (again) _markAgain(box, slot, key.buyer, key.provider, key.leaseNo);
    }

    /// @inheritdoc IEscrowCore
    function free(LeaseKey[] calldata keys) external returns (bytes memory skipped) {
        Check.atMost(MAX_LEASES, keys.length, BatchTooLarge.selector);
        skipped = Entries.bitmap(keys.length);
        for (uint256 i = 0; i < keys.length; i++) {
            LeaseBox storage box = _lease(keys[i]);
            LeaseSlot slot = box.slot;
            bool due = slot.state() == LeaseState.Active && slot.end() <= block.timestamp;
            if (due) _halt(box, slot, keys[i], slot.end());
            else skipped.setBit(i);
        }
    }

    /// @dev Stops an active lease at `end`: unlocks what can no longer be used and frees the node.
    function _halt(LeaseBox storage box, LeaseSlot slot, LeaseKey calldata key, uint256 end)
        private
        returns (LeaseSlot next)
    {
        next = slot.endedAt(end).withState(LeaseState.Stopped);
        uint256 unlocked = slot.fullTime(SCALE) - next.fullTime(SCALE);

        box.slot = next;
        _release(key.provider, slot);
        _credit(key.buyer, unlocked);

        emit Stopped(key.leaseNo, key.buyer, key.provider, uint40(end), unlocked);
    }

    /// @dev Lets the bid's seat open once more. Where that was said before, nothing happens.
    function _markAgain(LeaseBox storage box, LeaseSlot slot, address buyer, address provider, bytes16 leaseNo)
        private
    {
        if (slot.again()) return;

        box.slot = slot.withAgain();

        emit MarkedAgain(leaseNo, buyer, provider);
    }

    /* CLOSE */

    /// @inheritdoc IEscrowCore
    function close(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        external
    {
        CloseData memory end = data;
        bytes32 digest = Signatures.digest(_domainSeparatorV4(), Hashes.close(CLOSE_TYPEHASH, end));
        address meter = Signatures.recover(digest, meterR, meterVs);
        if (meter == address(0) || Orders.leaseNo(end.termsHash, meter) != end.leaseNo) revert NotMeter(meter);
        address witness = Signatures.recover(digest, witnessR, witnessVs);
        _close(_lease(Hashes.leaseKey(witness, end.buyer, end.provider, end.leaseNo)), end);
    }

    /// @inheritdoc IEscrowCore
    function refund(LeaseKey calldata key) external {
        LeaseBox storage box = _lease(key);
        LeaseSlot slot = box.slot;

        _requireOpen(slot, key.leaseNo);
        uint256 deadline = slot.end() + SETTLE_WINDOW;
        if (block.timestamp <= deadline) Check.fail(deadline, block.timestamp, RefundTooEarly.selector);

        _finish(box, slot, key.buyer, key.provider, key.leaseNo, _released(box, slot));
    }

    /// @dev Pays what both signatures agree on, then closes.
    function _close(LeaseBox storage box, CloseData memory data) private {
        LeaseSlot slot = box.slot;
        uint256 ms = data.ms;

        _requireOpen(slot, data.leaseNo);
        Check.atLeast(slot.usedMs(), ms, UsageBelowSettled.selector);
        Check.atMost(slot.elapsedMs(block.timestamp), ms, UsageAheadOfTime.selector);

        ms = slot.paidPart(ms);
        (uint256 paid, uint256 total) = (slot.paidTime(SCALE), slot.timeCost(ms, SCALE));
        Counts memory counts;
        if (slot.hasCounted()) counts = _closeCounted(box, data);
        else if (data.egressMib | data.units != 0) revert LeaseNotCounted(data.leaseNo);

        _pay(data.provider, total - paid + counts.gross, _feeGrowth(paid, total) + counts.fee);
        slot = _finish(box, slot.withUsedMs(ms), data.buyer, data.provider, data.leaseNo, total + counts.total);
        if (data.again) _markAgain(box, slot, data.buyer, data.provider, data.leaseNo);
    }

    /// @dev What counted resources have earned in all, and by how much that and the fee on it have grown.
    struct Counts {
        uint256 total;
        uint256 gross;
        uint256 fee;
    }

    /// @dev Records the final counted figures.
    function _closeCounted(LeaseBox storage box, CloseData memory data) private returns (Counts memory) {
        CountedSlot used = box.counted;
        Check.atLeast(used.egressUsed(), data.egressMib, UsageBelowSettled.selector);
        Check.atLeast(used.unitsUsed(), data.units, UsageBelowSettled.selector);
        CountedSlot next = used.raised(data.egressMib, data.units);
        (uint256 paid, uint256 total) = (used.paid(SCALE), next.paid(SCALE));
        box.counted = next;
        return Counts(total, total - paid, _feeGrowth(paid, total));
    }

    /// @dev Closes a lease whose usage is final: returns the rest of its lock, and frees the node if the lease was active.
    function _finish(
        LeaseBox storage box,
        LeaseSlot slot,
        address buyer,
        address provider,
        bytes16 leaseNo,
        uint256 released
    ) private returns (LeaseSlot closed) {
        uint256 refunded = _fullCost(box, slot) - released;

        box.slot = closed = slot.withState(LeaseState.Closed);
        if (slot.state() == LeaseState.Active) _release(provider, slot);
        _credit(buyer, refunded);

        if (slot.hasCounted()) {
            CountedSlot counted = box.counted;
            emit ClosedCounted(leaseNo, uint32(counted.egressUsed()), uint32(counted.unitsUsed()));
        }
        emit Closed(leaseNo, buyer, provider, uint64(slot.usedMs()), released, refunded);
    }
}
