// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {LeaseState} from "../src/interfaces/IComputeEscrow.sol";
import {CountedSlot, CountedSlots, LeaseSlot, LeaseSlots} from "../src/libraries/LeaseSlot.sol";
import {Signatures} from "../src/libraries/Signatures.sol";
import {Units} from "../src/libraries/Units.sol";

/// @notice Units: exact to the atom at every edge.
/// forge-config: default.fuzz.runs = 10000
/// forge-config: nightly.fuzz.runs = 50000
contract UnitsTest is Test {
    uint256 private constant MOST_MS = type(uint40).max;

    function testFuzz_cost_is_the_floor_of_the_exact(uint64 rate, uint40 ms, uint8 decimals) public pure {
        uint256 scale = 10 ** bound(decimals, 0, 18);
        uint256 exact = uint256(rate) * ms * scale; // checked here
        assertEq(Units.costDown(rate, ms, scale), exact / 3.6e18);
        assertEq(Units.costUp(rate, ms, scale), exact / 3.6e18 + (exact % 3.6e18 == 0 ? 0 : 1));
    }

    function test_cost_at_the_widest() public pure {
        uint256 exact = uint256(type(uint64).max) * MOST_MS * 1e18;
        assertEq(Units.costDown(type(uint64).max, MOST_MS, 1e18), exact / 3.6e18);
        assertLt(Units.costUp(type(uint64).max, MOST_MS, 1e18), type(uint128).max);
        assertEq(Units.costUp(0, MOST_MS, 1e18), 0);
        assertEq(Units.costUp(type(uint64).max, 0, 1e18), 0);
        assertEq(Units.costUp(1, 1, 1), 1);
        assertEq(Units.costDown(1, 1, 1), 0);
    }

    /// @dev Differences of floored totals add up to the floored total.
    function testFuzz_splits_never_add(uint64 rate, uint40[8] memory ms, uint16 feeBps) public pure {
        feeBps = uint16(bound(feeBps, 0, 1000));
        (uint256 at, uint256 paid, uint256 fees) = (0, 0, 0);
        for (uint256 i = 0; i < ms.length; i++) {
            if (ms[i] <= at) continue;
            (uint256 before, uint256 total) = (Units.costDown(rate, at, 1e18), Units.costDown(rate, ms[i], 1e18));
            assertGe(total, before);
            paid += total - before;
            fees += total * feeBps / 10_000 - before * feeBps / 10_000;
            at = ms[i];
        }
        assertEq(paid, Units.costDown(rate, at, 1e18));
        assertEq(fees, paid * feeBps / 10_000);
        assertLe(fees, paid);
    }

    /// @dev What the proofs take for granted, since division is hard to solve for.
    function testFuzz_costs_and_fees_grow_with_time(uint64 rate, uint40[2] memory ms, uint16 feeBps) public pure {
        feeBps = uint16(bound(feeBps, 0, 1000));
        if (ms[0] > ms[1]) (ms[0], ms[1]) = (ms[1], ms[0]);
        (uint256 less, uint256 more) = (Units.costDown(rate, ms[0], 1e18), Units.costDown(rate, ms[1], 1e18));
        assertLe(less, more);
        assertLe(more, Units.costUp(rate, ms[1], 1e18));
        assertLe(Units.costUp(rate, ms[0], 1e18), Units.costUp(rate, ms[1], 1e18));
        assertLe(more * feeBps / 10_000 - less * feeBps / 10_000, more - less);
    }

    function testFuzz_counted_is_the_floor_of_the_exact(uint64[2] memory prices, uint32[2] memory sizes) public pure {
        uint256 exact = (uint256(prices[0]) * sizes[0] + uint256(prices[1]) * sizes[1] * 1024) * 1e18;
        uint256 down = Units.countedDown(prices[0], prices[1], sizes[0], sizes[1], 1e18);
        assertEq(down, exact / 1.024e12);
        assertEq(
            Units.countedUp(prices[0], prices[1], sizes[0], sizes[1], 1e18), down + (exact % 1.024e12 == 0 ? 0 : 1)
        );
        assertLt(down, type(uint128).max);
    }

    /// @dev A second less than one is none.
    function test_affordable_time_is_rounded_down_at_the_finest() public pure {
        assertEq(Units.affordableSeconds(3.6e18 + 1, 1000, 1), 0);
        assertEq(Units.affordableSeconds(3.6e18, 1000, 1), 1);
    }

    function testFuzz_affordable_time_is_the_most(uint64 rate, uint128 atoms, uint8 decimals) public pure {
        uint256 scale = 10 ** bound(decimals, 0, 18);
        uint256 seconds_ = Units.affordableSeconds(rate, atoms, scale);
        if (rate == 0) {
            assertEq(seconds_, type(uint256).max);
            return;
        }
        if (seconds_ > 1e9) return; // longer than any lease
        assertLe(Units.costUp(rate, seconds_ * 1000, scale), atoms);
        assertGt(uint256(rate) * (seconds_ + 1) * 1000 * scale, uint256(atoms) * 3.6e18);
    }
}

/// @notice Signatures: only the lower of the two forms names a signer.
/// forge-config: default.fuzz.runs = 10000
/// forge-config: nightly.fuzz.runs = 50000
contract SignaturesLibraryTest is Test {
    bytes32 private constant R = 0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798;
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    bytes32 private constant DOMAIN = keccak256("domain");
    bytes32 private constant STRUCT = keccak256("struct");

    function testFuzz_recovers_what_the_precompile_does(bytes32 domain, bytes32 structHash, bytes32 r, bytes32 vs)
        public
        view
    {
        uint256 s = uint256(vs) & (type(uint256).max >> 1);
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, structHash));
        address expected =
            s > HALF_ORDER ? address(0) : ecrecover(digest, 27 + uint8(uint256(vs) >> 255), r, bytes32(s));
        assertEq(Signatures.recover(Signatures.digest(domain, structHash), r, vs), expected);
    }

    function testFuzz_recovers_the_signer(uint256 key, bytes32 domain, bytes32 structHash) public view {
        key = bound(key, 1, 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364140);
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, structHash));
        (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
        assertEq(Signatures.recover(Signatures.digest(domain, structHash), r, vs), vm.addr(key));
    }

    function test_half_the_order_is_the_most() public view {
        for (uint256 v = 0; v < 2; v++) {
            bytes32 most = bytes32((v << 255) | HALF_ORDER);
            assertNotEq(Signatures.recover(Signatures.digest(DOMAIN, STRUCT), R, most), address(0));
            bytes32 above = bytes32((v << 255) | (HALF_ORDER + 1));
            assertNotEq(ecrecover(STRUCT, 27 + uint8(v), R, bytes32(HALF_ORDER + 1)), address(0), "elsewhere it counts");
            assertEq(Signatures.recover(Signatures.digest(DOMAIN, STRUCT), R, above), address(0));
        }
    }

    /// @dev Whatever lay in memory where the precompile would have answered.
    function test_a_bad_signature_recovers_nothing_left_behind() public view {
        assembly ("memory-safe") {
            mstore(0x00, not(0))
        }
        address signer = Signatures.recover(Signatures.digest(DOMAIN, STRUCT), R, 0);
        assertEq(signer, address(0));
    }

    function test_nothing_signs_nothing() public view {
        assertEq(Signatures.recover(Signatures.digest(DOMAIN, STRUCT), 0, 0), address(0));
        assertEq(Signatures.recover(Signatures.digest(DOMAIN, STRUCT), R, 0), address(0));
        assertEq(
            Signatures.recover(Signatures.digest(DOMAIN, STRUCT), bytes32(type(uint256).max), bytes32(uint256(1))),
            address(0)
        );
    }
}

/// @notice Packed words: every field keeps its value at its edges and leaves its neighbours alone.
/// forge-config: default.fuzz.runs = 10000
/// forge-config: nightly.fuzz.runs = 50000
contract SlotsTest is Test {
    struct Fields {
        uint64 rate;
        uint40 usedMs;
        uint40 end;
        uint32 funded;
        uint16 startSeconds;
        uint32 gpuMilli;
        uint24 node;
        bool counted;
        bool again;
        uint8 state;
    }

    function _pack(Fields memory f) private pure returns (LeaseSlot) {
        LeaseSlot slot = LeaseSlots.pack(f.rate, f.end, f.funded, f.startSeconds, f.gpuMilli, f.node, f.counted);
        if (f.again) slot = slot.withAgain();
        return slot.withUsedMs(f.usedMs).withState(LeaseState(f.state));
    }

    function _assertFields(LeaseSlot slot, Fields memory f) private pure {
        assertEq(slot.rate(), f.rate, "rate");
        assertEq(slot.usedMs(), f.usedMs, "usedMs");
        assertEq(slot.end(), f.end, "end");
        assertEq(slot.funded(), f.funded, "funded");
        assertEq(slot.start(), uint256(f.end) - f.funded, "start");
        assertEq(slot.startSeconds(), f.startSeconds, "startSeconds");
        assertEq(slot.paidSeconds(), uint256(f.funded) - f.startSeconds, "paidSeconds");
        assertEq(slot.gpuMilli(), f.gpuMilli, "gpuMilli");
        assertEq(slot.node(), f.node, "node");
        assertEq(slot.hasCounted(), f.counted, "counted");
        assertEq(slot.again(), f.again, "again");
        assertEq(uint256(slot.state()), f.state, "state");
        assertEq(slot.isOpen(), f.state == 1 || f.state == 2, "open");
    }

    function _bound(Fields memory f) private pure {
        f.state = uint8(bound(f.state, 0, uint256(type(LeaseState).max)));
        if (f.end < f.funded) f.end += f.funded;
        f.startSeconds = uint16(bound(f.startSeconds, 0, f.funded < 65_535 ? f.funded : 65_535));
    }

    function testFuzz_fields_keep_their_values(Fields memory f) public pure {
        _bound(f);
        _assertFields(_pack(f), f);
    }

    function testFuzz_each_change_leaves_the_rest(Fields memory f, uint40 usedMs, uint40 end, uint8 state) public pure {
        _bound(f);
        LeaseSlot slot = _pack(f);
        f.usedMs = usedMs;
        slot = slot.withUsedMs(usedMs);
        _assertFields(slot, f);
        uint256 start = slot.start();
        f.again = true;
        slot = slot.withAgain();
        _assertFields(slot, f);
        _assertFields(slot.withAgain(), f);
        end = uint40(bound(end, start, f.end));
        uint256 cut = f.end - end;
        (f.end, f.funded) = (end, uint32(end - start));
        f.startSeconds -= uint16(cut < f.startSeconds ? cut : f.startSeconds);
        slot = slot.endedAt(end);
        _assertFields(slot, f);
        f.state = uint8(bound(state, 0, uint256(type(LeaseState).max)));
        _assertFields(slot.withState(LeaseState(f.state)), f);
    }

    function test_every_field_at_its_greatest() public pure {
        Fields memory f = Fields(
            type(uint64).max,
            type(uint40).max,
            type(uint40).max,
            type(uint32).max,
            type(uint16).max,
            type(uint32).max,
            type(uint24).max,
            true,
            true,
            uint8(type(LeaseState).max)
        );
        _assertFields(_pack(f), f);
        Fields memory zero;
        _assertFields(_pack(zero), zero);
    }

    /// @dev The end's highest bit goes like the others.
    function test_end_moves_below_its_highest_bit() public pure {
        LeaseSlot slot = LeaseSlots.pack(1, 1 << 39, 10, 3, 1000, 7, false).endedAt((1 << 39) - 4);
        assertEq(slot.end(), (1 << 39) - 4);
        assertEq(slot.funded(), 6);
        assertEq(slot.startSeconds(), 0);
        assertEq(slot.paidSeconds(), 6);
    }

    function testFuzz_time_that_is_added_is_paid(Fields memory f, uint32 more) public pure {
        _bound(f);
        more = uint32(bound(more, 0, type(uint32).max - f.funded));
        if (f.end > type(uint40).max - more) f.end -= more;
        LeaseSlot slot = _pack(f).extended(more);
        (f.end, f.funded) = (f.end + more, f.funded + more);
        _assertFields(slot, f);
    }

    /// @dev Ending early takes back what was added last, down to the time for a late start and beyond.
    function testFuzz_what_is_used_fits_the_time_that_stays_paid(Fields memory f, uint40 end) public pure {
        _bound(f);
        LeaseSlot slot = _pack(f);
        uint256 start = slot.start();
        end = uint40(bound(end, start, f.end));
        uint256 paid = slot.paidSeconds();
        uint256 elapsed = end - start;
        assertEq(slot.endedAt(end).paidSeconds(), elapsed < paid ? elapsed : paid);
        assertEq(slot.endedAt(end).start(), start);
    }

    function test_layout_is_as_documented() public pure {
        Fields memory f = Fields(1, 2, 5, 4, 3, 6, 7, true, true, 1);
        bytes memory packed =
            abi.encodePacked(uint64(1), uint40(2), uint40(5), uint32(4), uint16(3), uint32(6), uint24(7), uint8(0xc1));
        assertEq(bytes32(LeaseSlot.unwrap(_pack(f))), bytes32(packed));
        CountedSlot counted = CountedSlots.pack(1, 2, 5, 6).withUsed(3, 4);
        packed = abi.encodePacked(uint64(1), uint64(2), uint32(3), uint32(4), uint32(5), uint32(6));
        assertEq(bytes32(CountedSlot.unwrap(counted)), bytes32(packed));
    }

    function testFuzz_counted_fields_keep_their_values(uint64[2] memory prices, uint32[4] memory sizes) public pure {
        CountedSlot slot = CountedSlots.pack(prices[0], prices[1], sizes[0], sizes[1]);
        assertEq(slot.egressUsed() + slot.unitsUsed(), 0);
        slot = slot.withUsed(sizes[2], sizes[3]);
        assertEq(slot.egressPrice(), prices[0]);
        assertEq(slot.unitPrice(), prices[1]);
        assertEq(slot.egressCap(), sizes[0]);
        assertEq(slot.unitsCap(), sizes[1]);
        assertEq(slot.egressUsed(), sizes[2]);
        assertEq(slot.unitsUsed(), sizes[3]);
        assertEq(slot.paid(1e18), Units.countedDown(prices[0], prices[1], sizes[2], sizes[3], 1e18));
        assertEq(slot.full(1e18), Units.countedUp(prices[0], prices[1], sizes[0], sizes[1], 1e18));
    }

    /// @dev What `settled` says in one go is what the fields, read one by one, say.
    function testFuzz_settled_is_usage_up_to_the_paid_time(Fields memory f, uint40 ms, uint40 time, uint32 window)
        public
        pure
    {
        _bound(f);
        if (f.state % 2 == 0) f.state = 1; // half of them open
        LeaseSlot slot = _pack(f);
        time = uint40(bound(time, slot.start(), type(uint40).max));
        (LeaseSlot next, uint256 paid, uint256 total) = slot.settled(ms, time, window, 1e18);
        bool due = slot.isOpen() && time <= slot.end() + window && ms <= (time - slot.start()) * 1000;
        if (!due) {
            assertEq(LeaseSlot.unwrap(next), 0, "next");
            return assertEq(paid + total, 0, "nothing");
        }
        uint256 usedMs = slot.paidPart(ms);
        if (usedMs < f.usedMs) usedMs = f.usedMs;
        assertEq(LeaseSlot.unwrap(next), LeaseSlot.unwrap(slot.withUsedMs(usedMs)), "next");
        assertEq(paid, slot.paidTime(1e18), "paid");
        assertEq(total, slot.timeCost(usedMs, 1e18), "total");
        assertEq(paid, Units.costDown(f.rate, f.usedMs, 1e18), "cost");
        assertGe(total, paid, "growth");
    }

    /// @dev Whatever is used within the funded time, what is earned never exceeds what was locked.
    function testFuzz_earned_is_within_the_lock(Fields memory f) public pure {
        _bound(f);
        if (f.funded > 1e9) f.funded = 1e9;
        if (f.startSeconds > f.funded) f.startSeconds = uint16(f.funded);
        f.usedMs = uint40(bound(f.usedMs, 0, (uint256(f.funded) - f.startSeconds) * 1000));
        LeaseSlot slot = _pack(f);
        assertLe(slot.paidTime(1e18), slot.fullTime(1e18));
    }
}
