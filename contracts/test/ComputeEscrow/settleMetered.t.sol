// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Counted, IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

contract SettleMeteredTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;

    function setUp() public override {
        super.setUp();
        _no = _openCounted();
        _start = block.timestamp;
    }

    function _assertUsed(uint256 ms, uint256 egressMib, uint256 units) private view {
        assertEq(_lease(_no).usedMs, ms, "ms");
        Counted memory counted = _counted(_no);
        assertEq(counted.egressMib, egressMib, "egress");
        assertEq(counted.units, units, "units");
    }

    /* FAILURES */

    function test_malformed_entries_revert() public {
        bytes memory run = _single(_meteredEntry(_no, 1000, 1, 1));
        _expect(IEscrowBase.MalformedEntries.selector, bytes32(0));
        escrow.settleMetered(abi.encodePacked(provider, uint16(2), _meteredEntry(_no, 1000, 1, 1)));
        _expect(IEscrowBase.MalformedEntries.selector, bytes32(run.length * 2));
        escrow.settleMetered(abi.encodePacked(run, run, hex"01"));
    }

    function test_more_entries_than_a_batch_revert() public {
        bytes memory entries = abi.encodePacked(provider, uint16(501), new bytes(501 * 113));
        _expect(IEscrowBase.BatchTooLarge.selector, 500, 501);
        escrow.settleMetered(entries);
    }

    function test_bytes_behind_the_entries_are_not_read() public {
        vm.warp(_start + 100);
        bytes memory run = _single(_meteredEntry(_no, 50_000, 1, 1));
        bytes memory behind = _single(_meteredEntry(_no, 100_000, 2, 2));
        bytes memory call = abi.encodePacked(escrow.settleMetered.selector, uint256(0x20), run.length, run, behind);
        (bool ok, bytes memory answer) = address(escrow).call(call);
        assertTrue(ok);
        assertEq(abi.decode(answer, (bytes)), hex"00");
        _assertUsed(50_000, 1, 1);
    }

    function test_full_batch_of_nonsense_is_skipped() public {
        vm.recordLogs();
        bytes memory skipped = escrow.settleMetered(abi.encodePacked(provider, uint16(500), new bytes(500 * 113)));
        assertEq(vm.getRecordedLogs().length, 0, "of nothing there is nothing to say");
        assertEq(skipped.length, 63);
        assertEq(uint8(skipped[62]), 0x0f);
    }

    function test_lease_without_counted_is_skipped() public {
        bytes16 plain = escrow.open(_match(_ask(), _bidOf(2)));
        vm.warp(_start + 100);
        assertFalse(_settleMetered(plain, 1000, 0, 0));
        assertEq(_lease(plain).usedMs, 0);
    }

    function test_entry_that_raises_nothing_is_skipped() public {
        vm.warp(_start + 100);
        assertTrue(_settleMetered(_no, 1000, 10, 10));
        assertFalse(_settleMetered(_no, 1000, 10, 10));
        assertFalse(_settleMetered(_no, 999, 9, 9));
        assertFalse(_settleMetered(_no, 0, 0, 0));
    }

    function test_entry_ahead_of_time_is_skipped_whole() public {
        vm.warp(_start + 100);
        assertFalse(_settleMetered(_no, 100_001, 10, 10));
        _assertUsed(0, 0, 0);
    }

    function test_entry_after_the_window_is_skipped() public {
        vm.warp(_lease(_no).end + SETTLE_WINDOW + 1);
        assertFalse(_settleMetered(_no, 1000, 10, 10));
        vm.warp(_lease(_no).end + SETTLE_WINDOW);
        assertTrue(_settleMetered(_no, 1000, 10, 10));
    }

    function test_change_of_any_byte_is_skipped() public {
        vm.warp(_start + 4000);
        bytes memory whole = _single(_meteredEntry(_no, 1_000_000, 1000, 1000));
        for (uint256 i = 0; i < whole.length; i++) {
            if (i == 20 || i == 21) continue; // the count
            bytes memory changed = bytes.concat(whole);
            changed[i] ^= 0x01;
            assertEq(escrow.settleMetered(changed), hex"01");
        }
        _assertUsed(0, 0, 0);
        assertEq(escrow.settleMetered(whole), hex"00");
    }

    /* PAID */

    function test_counted_figures_are_paid_at_their_prices() public {
        vm.warp(_start + 1440);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.SettledMetered(provider, abi.encodePacked(_no, uint40(1_440_000), uint32(1024), uint32(2000)));
        assertTrue(_settleMetered(_no, 1_440_000, 1024, 2000));
        uint256 gross = 1e18 + 0.08e18 + 2e18;
        assertEq(_lease(_no).released, gross);
        assertEq(escrow.feesOf(provider), gross * FEE_BPS / 10_000);
        assertEq(escrow.balanceOf(provider), gross - gross * FEE_BPS / 10_000);
    }

    function test_figures_above_their_caps_are_paid_as_the_caps() public {
        vm.warp(_start + 7000);
        uint256 lock = _lease(_no).locked;
        assertTrue(_settleMetered(_no, 6_999_000, type(uint32).max, type(uint32).max));
        _assertUsed(3_600_000, 10_240, 5000);
        assertEq(_lease(_no).locked, 0);
        assertEq(_lease(_no).released + _lease(_no).locked, lock);
        assertFalse(_settleMetered(_no, 7_000_000, type(uint32).max, type(uint32).max));
    }

    function test_each_figure_counts_where_it_is_highest() public {
        vm.warp(_start + 100);
        assertTrue(_settleMetered(_no, 5000, 20, 1));
        vm.expectEmit(address(escrow));
        emit IEscrowBase.SettledMetered(provider, abi.encodePacked(_no, uint40(5000), uint32(20), uint32(30)));
        assertTrue(_settleMetered(_no, 1000, 10, 30));
        _assertUsed(5000, 20, 30);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.SettledMetered(provider, abi.encodePacked(_no, uint40(6000), uint32(20), uint32(30)));
        assertTrue(_settleMetered(_no, 6000, 0, 0));
    }

    function test_plain_usage_settles_the_time() public {
        vm.warp(_start + 100);
        assertTrue(_settle(_no, 50_000));
        assertTrue(_settleMetered(_no, 40_000, 7, 0));
        _assertUsed(50_000, 7, 0);
    }

    function test_counted_without_time_costs_no_time() public {
        assertTrue(_settleMetered(_no, 0, 1024, 0));
        assertEq(_lease(_no).released, 0.08e18);
    }

    /* FUZZ */

    function testFuzz_any_steps_pay_as_one(uint32[3][8] memory steps) public {
        vm.warp(_start + 4200);
        uint32[3] memory most;
        uint32[3] memory caps = [uint32(3_600_000), 10_240, 5000];
        for (uint256 i = 0; i < steps.length; i++) {
            uint32[3] memory step = [uint32(bound(steps[i][0], 0, caps[0])), steps[i][1] % 20_000, steps[i][2] % 10_000];
            bool raises = false;
            for (uint256 k = 0; k < 3; k++) {
                uint32 counts = step[k] < caps[k] ? step[k] : caps[k];
                if (counts > most[k]) (most[k], raises) = (counts, true);
            }
            assertEq(_settleMetered(_no, step[0], step[1], step[2]), raises);
        }
        _assertUsed(most[0], most[1], most[2]);
        uint256 time = uint256(2.5e12) * most[0] * 1e18 / 3.6e18;
        uint256 things = (uint256(0.08e9) * most[1] + uint256(0.001e9) * most[2] * 1024) * 1e18 / (1024 * 1e9);
        assertEq(_lease(_no).released, time + things);
        assertEq(escrow.feesOf(provider), time * FEE_BPS / 10_000 + things * FEE_BPS / 10_000);
    }

    /// forge-config: default.fuzz.runs = 10000
    /// forge-config: nightly.fuzz.runs = 50000
    function testFuzz_random_bytes_never_pay(bytes memory entries) public {
        vm.warp(_start + 4000);
        (bool ok,) = address(escrow).call(abi.encodeCall(escrow.settleMetered, (entries)));
        if (ok) _assertUsed(0, 0, 0);
    }
}
