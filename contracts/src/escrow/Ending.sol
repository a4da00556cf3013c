// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CloseData, IComputeEscrow, LeaseState} from "../interfaces/IComputeEscrow.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Units} from "../libraries/Units.sol";
import {Leases} from "./Leases.sol";

/// @title Ending
/// @notice How leases stop and close.
abstract contract Ending is Leases {
    bytes32 private constant STOP_TYPEHASH = keccak256("Stop(address buyer,address provider,bytes16 leaseNo)");
    bytes32 private constant CLOSE_TYPEHASH =
        keccak256("Close(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)");

    /// @inheritdoc IComputeEscrow
    function stop(address buyer, address provider, address witness, bytes16 leaseNo) external {
        if (msg.sender != buyer && msg.sender != provider && msg.sender != witness) revert NotAParty(msg.sender);
        _stop(buyer, provider, witness, leaseNo);
    }

    /// @inheritdoc IComputeEscrow
    function stopBySignature(
        address buyer,
        address provider,
        address witness,
        bytes16 leaseNo,
        bytes32 bidHash,
        bytes32 askHash,
        bytes32 r,
        bytes32 vs
    ) external {
        address signer = _recover(keccak256(abi.encode(STOP_TYPEHASH, buyer, provider, leaseNo)), r, vs);
        if (signer != witness) _requireMeter(signer, bidHash, askHash, leaseNo);
        _stop(buyer, provider, witness, leaseNo);
    }

    /// @inheritdoc IComputeEscrow
    function close(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        external
    {
        _close(_closeKey(data, meterR, meterVs, witnessR, witnessVs), data);
    }

    function _close(bytes32 key, CloseData calldata data) private {
        LeaseSlot slot = _leases[key];

        if (!slot.isOpen()) revert LeaseNotOpen(data.leaseNo, slot.state());
        if (data.ms < slot.usedMs()) revert UsageBelowSettled(slot.usedMs(), data.ms);
        uint256 elapsedMs = (block.timestamp - slot.start()) * Units.MS;
        if (data.ms > elapsedMs) revert UsageAheadOfTime(elapsedMs, data.ms);

        LeaseSlot next = slot.withUsedMs(_min(data.ms, slot.funded() * Units.MS));
        (uint256 gross, uint256 fee) = _growth(slot.paidTime(SCALE), next.paidTime(SCALE));
        (uint256 countedGross, uint256 countedFee) = _closeCounted(key, slot, data);

        _pay(data.provider, gross + countedGross, fee + countedFee);
        _finish(key, next, data.buyer, data.provider, data.leaseNo);
    }

    /// @inheritdoc IComputeEscrow
    function refund(address buyer, address provider, address witness, bytes16 leaseNo) external {
        bytes32 key = _keyOf(buyer, provider, witness, leaseNo);
        LeaseSlot slot = _leases[key];

        if (!slot.isOpen()) revert LeaseNotOpen(leaseNo, slot.state());
        uint256 deadline = slot.end() + settleWindow;
        if (block.timestamp <= deadline) revert RefundTooEarly(deadline, block.timestamp);

        _finish(key, slot, buyer, provider, leaseNo);
    }

    function _stop(address buyer, address provider, address witness, bytes16 leaseNo) private {
        bytes32 key = _keyOf(buyer, provider, witness, leaseNo);
        LeaseSlot slot = _leases[key];

        if (slot.state() != LeaseState.Active) revert LeaseNotActive(leaseNo, slot.state());

        uint256 end = _min(slot.end(), block.timestamp);
        LeaseSlot next = slot.withEnd(end).withState(LeaseState.Stopped);
        uint256 unlocked = slot.fullTime(SCALE) - next.fullTime(SCALE);

        _leases[key] = next;
        if (unlocked > 0) _credit(buyer, unlocked);

        emit Stopped(leaseNo, buyer, provider, uint40(end), unlocked);
    }

    /// @dev Key of the lease that both signatures close: the first proves the meter, the second names the witness.
    function _closeKey(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        private
        view
        returns (bytes32)
    {
        bytes32 structHash = keccak256(
            abi.encode(CLOSE_TYPEHASH, data.buyer, data.provider, data.leaseNo, data.ms, data.egressMib, data.units)
        );
        _requireMeter(_recover(structHash, meterR, meterVs), data.bidHash, data.askHash, data.leaseNo);
        return _keyOf(data.buyer, data.provider, _recover(structHash, witnessR, witnessVs), data.leaseNo);
    }

    /// @dev Records the final counted figures and returns the growth of what they earned.
    function _closeCounted(bytes32 key, LeaseSlot slot, CloseData calldata data)
        private
        returns (uint256 gross, uint256 fee)
    {
        if (!slot.hasCounted()) {
            if (data.egressMib > 0 || data.units > 0) revert LeaseNotCounted(data.leaseNo);
            return (0, 0);
        }
        CountedSlot used = _counted[key];
        if (data.egressMib < used.egressUsed()) revert UsageBelowSettled(used.egressUsed(), data.egressMib);
        if (data.units < used.unitsUsed()) revert UsageBelowSettled(used.unitsUsed(), data.units);
        CountedSlot next = used.withUsed(_min(data.egressMib, used.egressCap()), _min(data.units, used.unitsCap()));
        (gross, fee) = _growth(used.paid(SCALE), next.paid(SCALE));
        if (CountedSlot.unwrap(next) != CountedSlot.unwrap(used)) _counted[key] = next;
    }
}
