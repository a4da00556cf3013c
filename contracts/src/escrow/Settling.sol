// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowCore} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Voucher, Vouchers} from "../libraries/Vouchers.sol";
import {Leases} from "./Leases.sol";

/// @title Settling
/// @notice Payments for time that witnesses signed, in batches.
/// @dev Unchecked: offsets stay within the calldata that `Entries.count` walked, sums of a run within the locks of its
/// leases, and those within the tokens held.
abstract contract Settling is Leases, IEscrowCore {
    using Entries for bytes;
    using Vouchers for Voucher;

    uint256 internal constant MAX_ENTRIES = 1000;

    uint256 private constant SETTLED_BYTES = 21;

    /// @inheritdoc IEscrowCore
    function settle(bytes calldata entries) external returns (bytes memory skipped) {
        (uint256 at, uint256 end, uint256 count) = entries.walk(Vouchers.USAGE_BYTES, MAX_ENTRIES);
        Voucher memory voucher = Vouchers.blank(_domainSeparatorV4());
        skipped = Entries.bitmap(count);
        uint256 index;
        while (at < end) {
            (at, index) = _settleRun(skipped, voucher, at, index);
        }
    }

    /// @dev Settles the run at `at`, whose first entry has this index, and pays its provider once. Returns where the next
    /// run begins, and the index of its first entry.
    function _settleRun(bytes memory skipped, Voucher memory voucher, uint256 at, uint256 index)
        private
        returns (uint256, uint256)
    {
        (uint256 gross, uint256 fee) = (0, 0);
        bytes memory settled = Entries.room(Entries.runLength(at) * SETTLED_BYTES);
        voucher.provider = Entries.runProvider(at);
        unchecked {
            uint256 end = index + Entries.runLength(at);
            at += Entries.HEADER_BYTES;
            for (; index < end; index++) {
                bytes32 key = voucher.readUsage(at);
                at += Vouchers.USAGE_BYTES;
                LeaseSlot slot = _lease(key).slot;
                uint256 ms = slot.due(voucher.ms, block.timestamp, SETTLE_WINDOW);
                if (ms == 0) {
                    skipped.setBit(index);
                    continue;
                }
                (uint256 paid, uint256 total) = slot.earned(ms, SCALE);
                gross += total - paid;
                fee += _feeGrowth(paid, total);
                _lease(key).slot = slot.withUsedMs(ms);
                settled.push(bytes32(voucher.leaseNo) | bytes32(ms << 88), SETTLED_BYTES);
            }
        }
        _pay(voucher.provider, gross, fee);
        if (settled.length > 0) emit Settled(voucher.provider, settled);
        return (at, index);
    }
}
