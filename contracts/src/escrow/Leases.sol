// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Units} from "../libraries/Units.sol";
import {Ledger} from "./Ledger.sol";

/// @title Leases
/// @notice Where leases and orders are kept, what leases have earned and hold, and how they close.
/// @dev The escrow and its extension both stand on this: it has all the storage, in one order.
abstract contract Leases is Ledger {
    /* STORAGE */

    /// @dev All that is kept of a lease. Only leases with counted resources touch `counted`.
    struct LeaseBox {
        LeaseSlot slot;
        CountedSlot counted;
    }

    /// @dev A seat of a bid: its latest lease, and atoms that the leases before that one may have paid. A bid of one
    /// node has a record from its second lease on.
    struct BidRecord {
        bytes16 latest;
        uint128 spentBefore;
    }

    mapping(address provider => mapping(uint24 node => uint256)) internal _capacity;
    /// @dev Two bits for each order: whether a bid of this salt has opened, and whether the order was cancelled.
    mapping(address account => mapping(uint256 word => uint256)) internal _orders;
    mapping(bytes32 seatKey => BidRecord) internal _bids;
    /// @dev Whether a bid of several nodes has taken its number, which all of its seats share.
    mapping(bytes32 bidHash => bool) internal _seated;

    /// @dev Keeps a node's capacity word from returning to zero, which would cost the next lease a fresh slot.
    uint256 internal constant CAPACITY_TOUCHED = 1 << 255;

    /* LEASES */

    /// @dev Where a lease lies: at its key itself, which is a hash of four words. A mapping would hash that key once more,
    /// with its slot, for every entry of a batch; no other place in storage is the hash of four words.
    function _lease(bytes32 key) internal pure returns (LeaseBox storage box) {
        assembly ("memory-safe") {
            box.slot := key
        }
    }

    function _lease(address buyer, address provider, address witness, bytes16 leaseNo)
        internal
        pure
        returns (LeaseBox storage)
    {
        return _lease(Hashes.leaseKey(witness, buyer, provider, leaseNo));
    }

    /* ORDERS */

    /// @dev Where the two bits of an order are: its word, and the lower bit, which says that a bid has opened. The next
    /// higher one says that the order was cancelled.
    function _orderBits(uint64 salt) internal pure returns (uint256 word, uint256 opened) {
        return (salt >> 7, 1 << (2 * (salt & 127)));
    }

    /// @dev Key of a seat's record. A bid of one node has seat 0.
    function _seatKey(bytes32 bidHash, uint16 seat) internal pure returns (bytes32) {
        return seat == 0 ? bidHash : keccak256(abi.encode(bidHash, seat));
    }

    /* MONEY */

    /// @dev Atoms that a lease has earned so far.
    function _released(LeaseBox storage box, LeaseSlot slot) internal view returns (uint256 sum) {
        sum = slot.paidTime(SCALE);
        if (slot.hasCounted()) sum += box.counted.paid(SCALE);
    }

    /// @dev Atoms that the terms of a lease reserve for it: what was released and what is locked, while it is open.
    function _fullCost(LeaseBox storage box, LeaseSlot slot) internal view returns (uint256 sum) {
        sum = slot.fullTime(SCALE);
        if (slot.hasCounted()) sum += box.counted.full(SCALE);
    }

    /// @dev Most atoms that a lease may come to in the end.
    function _mostReleased(LeaseBox storage box, LeaseSlot slot) internal view returns (uint256) {
        return slot.isOpen() ? _fullCost(box, slot) : _released(box, slot);
    }

    /// @dev Growth of the fee when what a lease earned grows from `paid` to `total`: a difference of floored totals, as
    /// every payment is, so that splitting never adds. Unchecked: earnings never fall.
    function _feeGrowth(uint256 paid, uint256 total) internal view returns (uint256) {
        unchecked {
            return (total * FEE_BPS) / Units.BPS - (paid * FEE_BPS) / Units.BPS;
        }
    }

    /* CAPACITY */

    function _reserve(address provider, uint24 node, uint256 gpuMilli, uint256 offered) internal {
        uint256 used = _capacity[provider][node] & ~CAPACITY_TOUCHED;
        if (used + gpuMilli > offered) Check.fail(offered > used ? offered - used : 0, gpuMilli, NodeFull.selector);
        _capacity[provider][node] = CAPACITY_TOUCHED | (used + gpuMilli);
    }

    function _free(address provider, LeaseSlot slot) internal {
        unchecked {
            _capacity[provider][slot.node()] -= slot.gpuMilli(); // what `_reserve` added
        }
    }

    /* ARITHMETIC */

    function _min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }

    function _max(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a : b;
    }

    /* REQUIREMENTS */

    function _requireOpen(LeaseSlot slot, bytes16 leaseNo) internal pure {
        if (!slot.isOpen()) revert LeaseNotOpen(leaseNo, slot.state());
    }
}
