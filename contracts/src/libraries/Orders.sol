// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IComputeEscrow, Prices, Quote, TierLimit} from "../interfaces/IComputeEscrow.sol";

/// @title Orders
/// @notice EIP-712 struct hashes of orders, and whether an ask and a bid fit.
/// @dev Hashing copies the words of a struct as they lie in calldata: a word with stray high bits hashes to something
/// that nobody signed.
library Orders {
    uint256 internal constant SHARED = 1;
    uint256 internal constant MAX_LIMITS = 32;
    uint256 internal constant WHOLE_GPU_MILLI = 1000;

    bytes32 internal constant PRICES_TYPEHASH = keccak256(
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)"
    );
    bytes32 internal constant LIMIT_TYPEHASH =
        keccak256("TierLimit(bytes32 tier,uint64 rate,uint64 egressGib,uint64 unit)");
    bytes32 internal constant ASK_TYPEHASH = keccak256(
        "Ask(address provider,address meter,address arbiter,address opener,uint24 node,bytes32 tier,uint32 gpuMilli,"
        "uint32 cpuMilli,uint32 memoryMib,uint32 storageMib,Prices floor,uint32 minSeconds,uint32 maxSeconds,"
        "uint32 startLimitSeconds,uint16 minChargeSeconds,bytes32 unit,uint40 startsAt,uint16 flags,uint16 maxFeeBps,"
        "uint40 expiry,uint256 salt)"
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)"
    );
    bytes32 internal constant QUOTE_TYPEHASH = keccak256(
        "Quote(bytes32 askHash,Prices prices,uint40 expiry)"
        "Prices(uint64 gpuHour,uint64 cpuHour,uint64 memoryGibHour,uint64 storageGibHour,uint64 egressGib,uint64 unit)"
    );
    bytes32 internal constant BID_TYPEHASH = keccak256(
        "Bid(address buyer,address witness,address arbiter,address opener,bytes32 jobHash,TierLimit[] limits,"
        "uint32 gpuMilli,uint32 cpuMilli,uint32 memoryMib,uint32 storageMib,uint32 egressMib,uint32 units,bytes32 unit,"
        "uint32 maxSeconds,uint128 budget,uint16 nodes,uint16 flags,uint16 maxFeeBps,uint40 expiry,uint256 salt)"
        "TierLimit(bytes32 tier,uint64 rate,uint64 egressGib,uint64 unit)"
    );

    /* HASHES */

    function hash(Prices calldata prices) internal pure returns (bytes32 digest) {
        bytes32 typeHash = PRICES_TYPEHASH;
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            calldatacopy(add(ptr, 0x20), prices, 0xc0) // 6 words
            digest := keccak256(ptr, 0xe0)
        }
    }

    function hash(Ask calldata ask) internal pure returns (bytes32 digest) {
        bytes32 typeHash = ASK_TYPEHASH;
        bytes32 floorHash = hash(ask.floor);
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            calldatacopy(add(ptr, 0x20), ask, 0x140) // 10 words: provider to storageMib
            mstore(add(ptr, 0x160), floorHash)
            calldatacopy(add(ptr, 0x180), add(ask, 0x200), 0x140) // 10 words: minSeconds to salt
            digest := keccak256(ptr, 0x2c0)
        }
    }

    function hash(Quote calldata quote) internal pure returns (bytes32) {
        return keccak256(abi.encode(QUOTE_TYPEHASH, quote.askHash, hash(quote.prices), quote.expiry));
    }

    function hash(Bid calldata bid) internal pure returns (bytes32 digest) {
        bytes32 typeHash = BID_TYPEHASH;
        bytes32 limitsHash = hash(bid.limits);
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            calldatacopy(add(ptr, 0x20), bid, 0xa0) // 5 words: buyer to jobHash
            mstore(add(ptr, 0xc0), limitsHash)
            calldatacopy(add(ptr, 0xe0), add(bid, 0xc0), 0x1c0) // 14 words: gpuMilli to salt
            digest := keccak256(ptr, 0x2a0)
        }
    }

    function hash(TierLimit[] calldata limits) internal pure returns (bytes32) {
        if (limits.length > MAX_LIMITS) revert IComputeEscrow.TooManyLimits(MAX_LIMITS, limits.length);
        bytes32[] memory hashes = new bytes32[](limits.length);
        for (uint256 i = 0; i < limits.length; i++) {
            hashes[i] = keccak256(abi.encode(LIMIT_TYPEHASH, limits[i]));
        }
        return keccak256(abi.encodePacked(hashes));
    }

    function leaseNo(bytes32 bidHash, bytes32 askHash, address meter) internal pure returns (bytes16) {
        return bytes16(keccak256(abi.encode(bidHash, askHash, meter)));
    }

    /* FIT */

    /// @notice Reverts unless both orders are live, name fit parties and sizes, and accept the fee.
    function requireFit(Ask calldata ask, Bid calldata bid, uint256 feeBps) internal view {
        _requireParties(ask, bid);
        requireLive(ask.expiry);
        requireLive(bid.expiry);
        if (block.timestamp < ask.startsAt) revert IComputeEscrow.AskNotStarted(ask.startsAt, block.timestamp);
        _requireFeeAccepted(ask.maxFeeBps, feeBps);
        _requireFeeAccepted(bid.maxFeeBps, feeBps);
        if (bid.nodes != 1) revert IComputeEscrow.NodesUnsupported(1, bid.nodes);
        _requireSizes(ask, bid);
        if (bid.maxSeconds > ask.maxSeconds) revert IComputeEscrow.DurationTooLong(ask.maxSeconds, bid.maxSeconds);
        if (bid.maxSeconds < ask.minSeconds) revert IComputeEscrow.DurationTooShort(ask.minSeconds, bid.maxSeconds);
        if (ask.minChargeSeconds > bid.maxSeconds) {
            revert IComputeEscrow.MinChargeTooLong(bid.maxSeconds, ask.minChargeSeconds);
        }
    }

    /// @notice Orders are live up to and including their expiry.
    function requireLive(uint256 expiry) internal view {
        if (block.timestamp > expiry) revert IComputeEscrow.OrderExpired(expiry, block.timestamp);
    }

    /// @notice The opener of one order, zero being anyone.
    function requireOpener(address opener) internal view {
        if (opener != address(0) && opener != msg.sender) revert IComputeEscrow.NotOpener(opener, msg.sender);
    }

    /// @notice Reverts unless every quoted price is at least the ask's.
    function requireAboveFloor(Prices calldata floor, Prices calldata prices) internal pure {
        _requireAtLeast(floor.gpuHour, prices.gpuHour);
        _requireAtLeast(floor.cpuHour, prices.cpuHour);
        _requireAtLeast(floor.memoryGibHour, prices.memoryGibHour);
        _requireAtLeast(floor.storageGibHour, prices.storageGibHour);
        _requireAtLeast(floor.egressGib, prices.egressGib);
        _requireAtLeast(floor.unit, prices.unit);
    }

    /// @notice What all timed resources of the bid cost together, in 1e-12 token per hour; the MiB part rounded down.
    function rate(Prices calldata prices, Bid calldata bid) internal pure returns (uint64) {
        uint256 sum = uint256(prices.gpuHour) * bid.gpuMilli + uint256(prices.cpuHour) * bid.cpuMilli;
        uint256 mib = uint256(prices.memoryGibHour) * bid.memoryMib + uint256(prices.storageGibHour) * bid.storageMib;
        sum += (mib * 125) / 128; // a MiB is 1000/1024 thousandths of a GiB
        if (sum > type(uint64).max) revert IComputeEscrow.RateTooLarge(type(uint64).max, sum);
        return uint64(sum);
    }

    /// @notice Reverts unless the bid's first limit for the tier covers the rate and the counted prices it caps.
    function requireWithinLimits(Bid calldata bid, bytes32 tier, Prices calldata prices, uint256 rate_) internal pure {
        TierLimit[] calldata limits = bid.limits;
        for (uint256 i = 0; i < limits.length; i++) {
            TierLimit calldata limit = limits[i];
            if (limit.tier != tier) continue;
            _requireAtMost(limit.rate, rate_);
            if (bid.egressMib > 0) _requireAtMost(limit.egressGib, prices.egressGib);
            if (bid.units > 0) _requireAtMost(limit.unit, prices.unit);
            return;
        }
        revert IComputeEscrow.TierNotInBid(tier);
    }

    function _requireFeeAccepted(uint256 most, uint256 feeBps) private pure {
        if (feeBps > most) revert IComputeEscrow.FeeNotAccepted(most, feeBps);
    }

    function _requireParties(Ask calldata ask, Bid calldata bid) private pure {
        (address provider, address meter) = (ask.provider, ask.meter);
        (address buyer, address witness, address arbiter) = (bid.buyer, bid.witness, bid.arbiter);
        if (arbiter != ask.arbiter) revert IComputeEscrow.ArbiterMismatch(ask.arbiter, arbiter);
        if (provider == address(0) || meter == address(0) || buyer == address(0)) {
            revert IComputeEscrow.InvalidParty(address(0));
        }
        if (witness == address(0) || witness == provider || witness == meter) {
            revert IComputeEscrow.InvalidParty(witness);
        }
        if (arbiter != address(0) && (arbiter == provider || arbiter == meter)) {
            revert IComputeEscrow.InvalidParty(arbiter);
        }
    }

    function _requireSizes(Ask calldata ask, Bid calldata bid) private pure {
        uint256 gpuMilli = bid.gpuMilli;
        if (gpuMilli == 0) revert IComputeEscrow.InvalidGpuSize(gpuMilli);
        if (gpuMilli < WHOLE_GPU_MILLI) {
            if (ask.flags & bid.flags & SHARED == 0) revert IComputeEscrow.ShareNotAccepted(ask.flags, bid.flags);
        } else if (gpuMilli % WHOLE_GPU_MILLI != 0) {
            revert IComputeEscrow.InvalidGpuSize(gpuMilli);
        }
        _requireFits(ask.gpuMilli, gpuMilli);
        _requireFits(ask.cpuMilli, bid.cpuMilli);
        _requireFits(ask.memoryMib, bid.memoryMib);
        _requireFits(ask.storageMib, bid.storageMib);
        if (bid.units > 0 && (bid.unit == 0 || bid.unit != ask.unit)) {
            revert IComputeEscrow.UnitMismatch(ask.unit, bid.unit);
        }
    }

    function _requireFits(uint256 most, uint256 size) private pure {
        if (size > most) revert IComputeEscrow.SizeTooLarge(most, size);
    }

    function _requireAtLeast(uint256 floor, uint256 price) private pure {
        if (price < floor) revert IComputeEscrow.QuoteBelowFloor(floor, price);
    }

    function _requireAtMost(uint256 limit, uint256 price) private pure {
        if (price > limit) revert IComputeEscrow.PriceAboveLimit(limit, price);
    }
}
