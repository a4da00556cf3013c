// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, Prices, Quote, TierLimit} from "../interfaces/IComputeEscrow.sol";
import {Check} from "./Check.sol";

/// @title Orders
/// @notice EIP-712 struct hashes of orders, and whether an ask and a bid fit.
/// @dev Orders come from the ABI decoder, which refuses values out of range of their types.
library Orders {
    uint256 internal constant SHARED = 1;
    uint256 internal constant NO_GPU = 2;
    uint256 internal constant INTERRUPTIBLE = 4;
    uint256 internal constant MAX_LIMITS = 32;
    uint256 internal constant WHOLE_GPU_MILLI = 1000;
    /// @dev Longest paid time; with a start limit its milliseconds fit 40 bits.
    uint256 internal constant MAX_PAID_SECONDS = 1_000_000_000;

    bytes32 internal constant PRICES_TYPEHASH = keccak256(
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)"
    );
    bytes32 internal constant LIMIT_TYPEHASH =
        keccak256("TierLimit(bytes32 tier,uint64 rate,uint64 egressGib,uint64 unit)");
    bytes32 internal constant ASK_TYPEHASH = keccak256(
        "Ask(address provider,address meter,address opener,uint24 node,bytes32 tier,uint32 gpuMilli,"
        "uint32 cpuMilli,uint32 memoryMib,uint32 storageMib,Prices floor,uint32 minSeconds,uint32 maxSeconds,"
        "uint16 startLimitSeconds,uint16 noticeSeconds,bytes32 unit,uint40 startsAt,uint16 flags,uint16 maxFeeBps,"
        "uint40 expiry,uint64 salt)"
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)"
    );
    bytes32 internal constant QUOTE_TYPEHASH = keccak256(
        "Quote(bytes32 askHash,Prices prices,uint40 expiry)"
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)"
    );
    bytes32 internal constant BID_TYPEHASH = keccak256(
        "Bid(address buyer,address witness,address opener,bytes32 jobHash,TierLimit[] limits,"
        "uint32 gpuMilli,uint32 cpuMilli,uint32 memoryMib,uint32 storageMib,uint32 egressMib,uint32 units,bytes32 unit,"
        "uint32 maxSeconds,uint16 maxStartSeconds,uint16 minNoticeSeconds,uint128 budget,uint16 nodes,uint16 flags,"
        "uint16 maxFeeBps,uint40 expiry,uint64 salt)" "TierLimit(bytes32 tier,uint64 rate,uint64 egressGib,uint64 unit)"
    );

    /* HASHES: the members as they lie in memory, references replaced by hashes */

    function hash(Prices memory prices) internal pure returns (bytes32 digest) {
        bytes32 typeHash = PRICES_TYPEHASH;
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            mcopy(add(ptr, 0x20), prices, 0xc0) // 6 members
            digest := keccak256(ptr, 0xe0)
        }
    }

    function hash(Ask memory ask) internal pure returns (bytes32 digest) {
        bytes32 typeHash = ASK_TYPEHASH;
        bytes32 floorHash = hash(ask.floor);
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            mcopy(add(ptr, 0x20), ask, 0x280) // 20 members
            mstore(add(ptr, 0x140), floorHash)
            digest := keccak256(ptr, 0x2a0)
        }
    }

    function hash(Quote memory quote) internal pure returns (bytes32) {
        return keccak256(abi.encode(QUOTE_TYPEHASH, quote.askHash, hash(quote.prices), quote.expiry));
    }

    function hash(Bid memory bid) internal pure returns (bytes32 digest) {
        bytes32 typeHash = BID_TYPEHASH;
        bytes32 limitsHash = hash(bid.limits);
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            mcopy(add(ptr, 0x20), bid, 0x2a0) // 21 members
            mstore(add(ptr, 0xa0), limitsHash)
            digest := keccak256(ptr, 0x2c0)
        }
    }

    function hash(TierLimit memory limit) internal pure returns (bytes32 digest) {
        bytes32 typeHash = LIMIT_TYPEHASH;
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            mcopy(add(ptr, 0x20), limit, 0x80) // 4 members
            digest := keccak256(ptr, 0xa0)
        }
    }

    function hash(TierLimit[] memory limits) internal pure returns (bytes32) {
        Check.atMost(MAX_LIMITS, limits.length, IEscrowBase.TooManyLimits.selector);
        bytes32[] memory hashes = new bytes32[](limits.length);
        for (uint256 i = 0; i < limits.length; i++) {
            hashes[i] = hash(limits[i]);
        }
        return keccak256(abi.encodePacked(hashes));
    }

    /// @notice What a lease is opened from, in one word: both orders, the prices and the seat.
    function termsHash(bytes32 bidHash, bytes32 askHash, bytes32 pricesHash, uint16 seat)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(bidHash, askHash, pricesHash, seat));
    }

    /// @notice Number of the lease from its terms and the meter, which the ask names.
    function leaseNo(bytes32 termsHash_, address meter) internal pure returns (bytes16) {
        return bytes16(keccak256(abi.encode(termsHash_, meter)));
    }

    /* FIT */

    /// @notice Reverts unless both orders are live, name fit parties and sizes, and accept the fee.
    function requireFit(Ask memory ask, Bid memory bid, uint16 seat, uint256 feeBps) internal view {
        requireOpener(ask.opener);
        requireOpener(bid.opener);
        _requireParties(ask, bid);
        requireLive(ask.expiry);
        requireLive(bid.expiry);
        Check.atLeast(ask.startsAt, block.timestamp, IEscrowBase.AskNotStarted.selector);
        Check.atMost(ask.maxFeeBps, feeBps, IEscrowBase.FeeNotAccepted.selector);
        Check.atMost(bid.maxFeeBps, feeBps, IEscrowBase.FeeNotAccepted.selector);
        if (seat >= bid.nodes) Check.fail(bid.nodes, seat, IEscrowBase.SeatOutOfRange.selector);
        _requireSizes(ask, bid);
        Check.atMost(ask.maxSeconds, bid.maxSeconds, IEscrowBase.DurationTooLong.selector);
        Check.atLeast(ask.minSeconds, bid.maxSeconds, IEscrowBase.DurationTooShort.selector);
        Check.atMost(bid.maxStartSeconds, ask.startLimitSeconds, IEscrowBase.StartTooLong.selector);
        if (ask.flags & INTERRUPTIBLE != 0) {
            _requireBoth(ask, bid, INTERRUPTIBLE);
            Check.atLeast(bid.minNoticeSeconds, ask.noticeSeconds, IEscrowBase.NoticeTooShort.selector);
        }
    }

    /// @notice Orders are live up to and including their expiry.
    function requireLive(uint256 expiry) internal view {
        Check.atMost(expiry, block.timestamp, IEscrowBase.OrderExpired.selector);
    }

    /// @notice Reverts unless the order names the sender as opener, or nobody.
    function requireOpener(address opener) internal view {
        if (opener != address(0) && opener != msg.sender) revert IEscrowBase.NotOpener(opener, msg.sender);
    }

    /// @notice Reverts unless every quoted price is at least the ask's.
    function requireAboveFloor(Prices memory floor, Prices memory prices) internal pure {
        bytes4 selector = IEscrowBase.QuoteBelowFloor.selector;
        Check.atLeast(floor.gpuHour, prices.gpuHour, selector);
        Check.atLeast(floor.cpuHour, prices.cpuHour, selector);
        Check.atLeast(floor.memoryGibHour, prices.memoryGibHour, selector);
        Check.atLeast(floor.storageGibHour, prices.storageGibHour, selector);
        Check.atLeast(floor.egressGib, prices.egressGib, selector);
        Check.atLeast(floor.unit, prices.unit, selector);
    }

    /// @notice The price of all timed resources of the bid together, in 1e-12 token per hour; the MiB part rounded down.
    /// @dev Prices are below 2^64 and sizes below 2^32: nothing here overflows 256 bits.
    function rate(Prices memory prices, Bid memory bid) internal pure returns (uint64) {
        uint256 sum;
        unchecked {
            sum = uint256(prices.memoryGibHour) * bid.memoryMib + uint256(prices.storageGibHour) * bid.storageMib;
            sum = (sum * 125) / 128; // a MiB is 1000/1024 thousandths of a GiB
            sum += uint256(prices.gpuHour) * bid.gpuMilli + uint256(prices.cpuHour) * bid.cpuMilli;
        }
        Check.atMost(type(uint64).max, sum, IEscrowBase.RateTooLarge.selector);
        return uint64(sum);
    }

    /// @notice Reverts unless the bid's first limit for the tier covers the rate and the counted prices it caps.
    function requireWithinLimits(Bid memory bid, bytes32 tier, Prices memory prices, uint256 rate_) internal pure {
        bytes4 selector = IEscrowBase.PriceAboveLimit.selector;
        for (uint256 i = 0; i < bid.limits.length; i++) {
            TierLimit memory limit = bid.limits[i];
            if (limit.tier != tier) continue;
            Check.atMost(limit.rate, rate_, selector);
            if (bid.egressMib > 0) Check.atMost(limit.egressGib, prices.egressGib, selector);
            if (bid.units > 0) Check.atMost(limit.unit, prices.unit, selector);
            return;
        }
        revert IEscrowBase.TierNotInBid(tier);
    }

    function _requireParties(Ask memory ask, Bid memory bid) private pure {
        (address provider, address meter, address witness) = (ask.provider, ask.meter, bid.witness);
        if (provider == address(0) || meter == address(0) || bid.buyer == address(0)) {
            revert IEscrowBase.InvalidParty(address(0));
        }
        if (witness == address(0) || witness == provider || witness == meter) {
            revert IEscrowBase.InvalidParty(witness);
        }
    }

    function _requireSizes(Ask memory ask, Bid memory bid) private pure {
        uint256 gpuMilli = bid.gpuMilli;
        if (gpuMilli < WHOLE_GPU_MILLI) {
            _requireBoth(ask, bid, gpuMilli == 0 ? NO_GPU : SHARED);
        } else if (gpuMilli % WHOLE_GPU_MILLI != 0) {
            revert IEscrowBase.InvalidGpuSize(gpuMilli);
        }
        bytes4 selector = IEscrowBase.SizeTooLarge.selector;
        Check.atMost(ask.gpuMilli, gpuMilli, selector);
        Check.atMost(ask.cpuMilli, bid.cpuMilli, selector);
        Check.atMost(ask.memoryMib, bid.memoryMib, selector);
        Check.atMost(ask.storageMib, bid.storageMib, selector);
        if (bid.units > 0 && (bid.unit == 0 || bid.unit != ask.unit)) {
            Check.fail(uint256(ask.unit), uint256(bid.unit), IEscrowBase.UnitMismatch.selector);
        }
    }

    function _requireBoth(Ask memory ask, Bid memory bid, uint256 flag) private pure {
        if (ask.flags & bid.flags & flag == 0) Check.fail(ask.flags, bid.flags, IEscrowBase.FlagNotAccepted.selector);
    }
}
