// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CloseData, IEscrowCore, LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {Units} from "../libraries/Units.sol";
import {Leases} from "./Leases.sol";

/// @title Ending
/// @notice How leases stop and close.
abstract contract Ending is Leases, IEscrowCore {
    bytes32 private constant STOP_TYPEHASH = keccak256("Stop(address buyer,address provider,bytes16 leaseNo)");
    bytes32 private constant CLOSE_TYPEHASH =
        keccak256("Close(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)");

    /* STOP */

    /// @inheritdoc IEscrowCore
    function stop(address buyer, address provider, address witness, bytes16 leaseNo) external {
        if (msg.sender != buyer && msg.sender != provider && msg.sender != witness) revert NotAParty(msg.sender);
        _stop(buyer, provider, witness, leaseNo);
    }

    /// @inheritdoc IEscrowCore
    function stopBySignature(
        address buyer,
        address provider,
        address witness,
        bytes16 leaseNo,
        bytes32 ordersHash,
        bytes32 r,
        bytes32 vs
    ) external {
        bytes32 structHash = keccak256(abi.encode(STOP_TYPEHASH, buyer, provider, leaseNo));
        address signer = Signatures.recover(_domainSeparatorV4(), structHash, r, vs);
        if (signer != witness) _requireMeter(signer, ordersHash, leaseNo);
        _stop(buyer, provider, witness, leaseNo);
    }

    function _stop(address buyer, address provider, address witness, bytes16 leaseNo) private {
        LeaseBox storage box = _lease(buyer, provider, witness, leaseNo);
        LeaseSlot slot = box.slot;

        if (slot.state() != LeaseState.Active) revert LeaseNotActive(leaseNo, slot.state());

        uint256 end = _min(slot.end(), block.timestamp);
        LeaseSlot next = slot.withEnd(end).withState(LeaseState.Stopped);
        uint256 unlocked = slot.fullTime(SCALE) - next.fullTime(SCALE);

        box.slot = next;
        _credit(buyer, unlocked);

        emit Stopped(leaseNo, buyer, provider, uint40(end), unlocked);
    }

    /* CLOSE */

    /// @inheritdoc IEscrowCore
    function close(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        external
    {
        CloseData memory end = data;
        bytes32 domain = _domainSeparatorV4();
        bytes32 structHash =
            Hashes.metered(CLOSE_TYPEHASH, end.buyer, end.provider, end.leaseNo, end.ms, end.egressMib, end.units);
        _requireMeter(Signatures.recover(domain, structHash, meterR, meterVs), end.ordersHash, end.leaseNo);
        address witness = Signatures.recover(domain, structHash, witnessR, witnessVs);
        _close(_lease(end.buyer, end.provider, witness, end.leaseNo), end);
    }

    /// @inheritdoc IEscrowCore
    function refund(address buyer, address provider, address witness, bytes16 leaseNo) external {
        LeaseBox storage box = _lease(buyer, provider, witness, leaseNo);
        LeaseSlot slot = box.slot;

        _requireOpen(slot, leaseNo);
        uint256 deadline = slot.end() + SETTLE_WINDOW;
        if (block.timestamp <= deadline) Check.fail(deadline, block.timestamp, RefundTooEarly.selector);

        _finish(box, slot, buyer, provider, leaseNo, _released(box, slot));
    }

    /// @dev Pays what both signatures agree on, then closes.
    function _close(LeaseBox storage box, CloseData memory data) private {
        LeaseSlot slot = box.slot;
        uint256 ms = data.ms;

        _requireOpen(slot, data.leaseNo);
        Check.atLeast(slot.usedMs(), ms, UsageBelowSettled.selector);
        Check.atMost((block.timestamp - slot.start()) * Units.MS, ms, UsageAheadOfTime.selector);

        ms = slot.fundedOf(ms);
        (uint256 paid, uint256 total) = (slot.paidTime(SCALE), slot.timeCost(ms, SCALE));
        Counts memory counts;
        if (slot.hasCounted()) counts = _closeCounted(box, data);
        else if (data.egressMib | data.units != 0) revert LeaseNotCounted(data.leaseNo);

        _pay(data.provider, total - paid + counts.gross, _feeGrowth(paid, total) + counts.fee);
        _finish(box, slot.withUsedMs(ms), data.buyer, data.provider, data.leaseNo, total + counts.total);
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

    function _requireMeter(address signer, bytes32 ordersHash, bytes16 leaseNo) private pure {
        if (signer == address(0) || Orders.leaseNo(ordersHash, signer) != leaseNo) revert NotMeter(signer);
    }

    /// @dev Closes a lease whose usage is final: returns the rest of its lock and frees its capacity.
    function _finish(
        LeaseBox storage box,
        LeaseSlot slot,
        address buyer,
        address provider,
        bytes16 leaseNo,
        uint256 released
    ) private {
        uint256 refunded = _fullCost(box, slot) - released;

        box.slot = slot.withState(LeaseState.Closed);
        _free(provider, slot);
        _credit(buyer, refunded);

        if (slot.hasCounted()) {
            CountedSlot counted = box.counted;
            emit ClosedCounted(leaseNo, uint32(counted.egressUsed()), uint32(counted.unitsUsed()));
        }
        emit Closed(leaseNo, buyer, provider, uint64(slot.usedMs()), released, refunded);
    }
}
