// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Counted, IComputeEscrow, Lease, LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Units} from "../libraries/Units.sol";
import {Accounts} from "./Accounts.sol";

/// @title Leases
/// @notice Where leases are kept, what they have earned and hold, and how they close.
abstract contract Leases is Accounts {
    /// @dev Keeps a node's capacity word from returning to zero, which would cost the next lease a fresh slot.
    uint256 private constant CAPACITY_TOUCHED = 1 << 255;

    /// @dev In a struct, so that one place in storage is worked out once and read and written through it.
    struct LeaseBox {
        LeaseSlot slot;
    }

    mapping(bytes32 key => LeaseBox) internal _leases;
    mapping(bytes32 key => CountedSlot) internal _counted;
    mapping(address provider => mapping(uint24 node => uint256)) private _capacity;

    /* MONEY */

    /// @dev Atoms that a lease has earned so far.
    function _released(bytes32 key, LeaseSlot slot) internal view returns (uint256 sum) {
        sum = slot.paidTime(SCALE);
        if (slot.hasCounted()) sum += _counted[key].paid(SCALE);
    }

    /// @dev Most atoms that a lease may ever earn: what was released and what is still locked, until it closes.
    function _fullCost(bytes32 key, LeaseSlot slot) internal view returns (uint256 sum) {
        sum = slot.fullTime(SCALE);
        if (slot.hasCounted()) sum += _counted[key].full(SCALE);
    }

    /// @dev Growth of the fee when what a lease earned grows from `paid` to `total`: a difference of floored totals, as
    /// every payment is, so that splitting never adds. Unchecked: earnings never fall.
    function _feeGrowth(uint256 paid, uint256 total) internal view returns (uint256) {
        if (feeBps == 0) return 0;
        unchecked {
            return (total * feeBps) / Units.BPS - (paid * feeBps) / Units.BPS;
        }
    }

    /* CAPACITY */

    function _reserve(address provider, uint24 node, uint256 gpuMilli, uint256 offered) internal {
        uint256 used = _capacity[provider][node] & ~CAPACITY_TOUCHED;
        if (used + gpuMilli > offered) Check.fail(offered > used ? offered - used : 0, gpuMilli, NodeFull.selector);
        _capacity[provider][node] = CAPACITY_TOUCHED | (used + gpuMilli);
    }

    /* CLOSING */

    /// @dev Closes a lease whose usage is final: returns the rest of its lock and frees its capacity.
    function _finish(bytes32 key, LeaseSlot slot, address buyer, address provider, bytes16 leaseNo) internal {
        uint256 released = _released(key, slot);
        uint256 refunded = _fullCost(key, slot) - released;
        (uint256 egressMib, uint256 units) = (0, 0);
        if (slot.hasCounted()) (egressMib, units) = (_counted[key].egressUsed(), _counted[key].unitsUsed());

        _leases[key].slot = slot.withState(LeaseState.Closed);
        _capacity[provider][slot.node()] -= slot.gpuMilli();
        _credit(buyer, refunded);

        emit Closed(
            leaseNo, buyer, provider, uint64(slot.usedMs()), uint32(egressMib), uint32(units), released, refunded
        );
    }

    /* ARITHMETIC */

    function _min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }

    function _max(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a : b;
    }

    /* VIEWS */

    /// @inheritdoc IComputeEscrow
    function capacityUsed(address provider, uint24 node) external view returns (uint256) {
        return _capacity[provider][node] & ~CAPACITY_TOUCHED;
    }

    /// @inheritdoc IComputeEscrow
    function lease(address buyer, address provider, address witness, bytes16 leaseNo)
        external
        view
        returns (Lease memory view_)
    {
        bytes32 key = Hashes.leaseKey(witness, buyer, provider, leaseNo);
        LeaseSlot slot = _leases[key].slot;
        view_.state = slot.state();
        view_.hasCounted = slot.hasCounted();
        view_.rate = uint64(slot.rate());
        view_.usedMs = uint64(slot.usedMs());
        view_.start = uint40(slot.start());
        view_.end = uint40(slot.end());
        view_.fundedSeconds = uint32(slot.funded());
        view_.minChargeSeconds = uint16(slot.minCharge());
        view_.gpuMilli = uint32(slot.gpuMilli());
        view_.node = slot.node();
        view_.released = _released(key, slot);
        view_.locked = slot.state() == LeaseState.Closed ? 0 : _fullCost(key, slot) - view_.released;
    }

    /// @inheritdoc IComputeEscrow
    function counted(address buyer, address provider, address witness, bytes16 leaseNo)
        external
        view
        returns (Counted memory)
    {
        CountedSlot slot = _counted[Hashes.leaseKey(witness, buyer, provider, leaseNo)];
        return Counted({
            egressGib: uint64(slot.egressPrice()),
            unit: uint64(slot.unitPrice()),
            egressMib: uint32(slot.egressUsed()),
            units: uint32(slot.unitsUsed()),
            egressMibCap: uint32(slot.egressCap()),
            unitsCap: uint32(slot.unitsCap())
        });
    }

    /// @inheritdoc IComputeEscrow
    function leaseNoOf(bytes32 bidHash, bytes32 askHash, address meter) external pure returns (bytes16) {
        return Orders.leaseNo(bidHash, askHash, meter);
    }

    /// @inheritdoc IComputeEscrow
    function cost(uint64 rate, uint64 ms) external view returns (uint256) {
        return Units.costDown(rate, ms, SCALE);
    }
}
