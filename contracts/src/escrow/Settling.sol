// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowCore} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Vouchers} from "../libraries/Vouchers.sol";
import {Leases} from "./Leases.sol";

/// @title Settling
/// @notice Payments for time that witnesses signed, in batches.
/// @dev Unchecked: offsets stay within the calldata that `Entries.walk` checked, sums of a run within the locks of its
/// leases, and those within the tokens held.
abstract contract Settling is Leases, IEscrowCore {
    using Entries for bytes;

    uint256 internal constant MAX_ENTRIES = 1000;

    uint256 private constant SETTLED_BYTES = 21;

    /// @inheritdoc IEscrowCore
    function settle(bytes calldata entries) external returns (bytes memory skipped) {
        Vouchers.begin();
        Vouchers.setDomain(_domainSeparatorV4());
        (uint256 at, uint256 end, uint256 count) = entries.walk(Vouchers.USAGE_BYTES, MAX_ENTRIES);
        skipped = Entries.bitmap(count);
        uint256 index;
        while (at < end) {
            (at, index) = _settleRun(skipped, at, index);
        }
    }

    /// @dev Settles the run at `at`, whose first entry has this index, and pays its provider once. Returns where the next
    /// run begins, and the index of its first entry.
    function _settleRun(bytes memory skipped, uint256 at, uint256 index) private returns (uint256, uint256) {
        (uint256 gross, uint256 fee) = (0, 0);
        bytes memory settled = Entries.room(Entries.runLength(at) * SETTLED_BYTES);
        Vouchers.setProvider(Entries.runProvider(at));
        unchecked {
            index += Entries.runLength(at);
            uint256 end = at + Entries.HEADER_BYTES + Entries.runLength(at) * Vouchers.USAGE_BYTES;
            at += Entries.HEADER_BYTES;
            for (; at < end; at += Vouchers.USAGE_BYTES) {
                LeaseBox storage box =
                    _lease(Vouchers.read(at, Vouchers.USAGE_TYPEHASH, Vouchers.USAGE_WORDS, Vouchers.USAGE_SIGNATURE));
                LeaseSlot slot = box.slot;
                (LeaseSlot next, uint256 paid, uint256 total) =
                    slot.settled(Vouchers.ms(), block.timestamp, SETTLE_WINDOW, SCALE);
                if (LeaseSlot.unwrap(next) <= LeaseSlot.unwrap(slot)) {
                    skipped.setBit(index - (end - at) / Vouchers.USAGE_BYTES);
                    continue;
                }
                gross += total - paid;
                fee += _feeGrowth(paid, total);
                box.slot = next;
                settled.push(Vouchers.leaseNo() | bytes32(next.usedMs() << 88), SETTLED_BYTES);
            }
        }
        _pay(Vouchers.provider(), gross, fee);
        if (settled.length > 0) emit Settled(Vouchers.provider(), settled);
        return (at, index);
    }
}
