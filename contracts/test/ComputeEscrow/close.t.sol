// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, CloseData, IEscrowBase, LeaseKey, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice close and refund: the two ways in which a lease is over.
contract CloseTest is EscrowTest {
    bytes16 private _no;
    bytes16 private _countedNo;
    uint256 private _start;

    function setUp() public override {
        super.setUp();
        _start = block.timestamp;
        (Ask memory ask, Bid memory bid) = _orders();
        _no = escrow.open(_match(ask, bid));
        (ask, bid) = _ordersOfCounted();
        _countedNo = escrow.open(_match(ask, bid));
    }

    function _orders() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = (_ask(), _bid());
        (ask.expiry, bid.expiry) = (type(uint40).max, type(uint40).max);
    }

    function _ordersOfCounted() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = _countedOrders();
        (ask.expiry, bid.expiry, bid.salt) = (type(uint40).max, type(uint40).max, 2);
    }

    function _data(uint64 ms) private view returns (CloseData memory) {
        (Ask memory ask, Bid memory bid) = _orders();
        return _closeData(ask, bid, ms, 0, 0);
    }

    function _dataOfCounted(uint64 ms, uint32 egressMib, uint32 units) private view returns (CloseData memory) {
        (Ask memory ask, Bid memory bid) = _ordersOfCounted();
        return _closeData(ask, bid, ms, egressMib, units);
    }

    /// @dev Both keys sign `signed`; `data` is what is sent.
    function _closeBy(CloseData memory data, CloseData memory signed, uint256 first, uint256 second) private {
        (bytes32 meterR, bytes32 meterVs) = _compact(first, TypedData.close(signed));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(second, TypedData.close(signed));
        vm.prank(stranger);
        escrow.close(data, meterR, meterVs, witnessR, witnessVs);
    }

    function _closeNow(CloseData memory data) private {
        _closeBy(data, data, meterKey, witnessKey);
    }

    function _expectNotOpen(bytes16 leaseNo, LeaseState state) private {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseNotOpen.selector, leaseNo, state));
    }

    /* CLOSE: REFUSED */

    function test_close_needs_the_meter() public {
        uint256[3] memory keys = [witnessKey, buyerKey, providerKey];
        for (uint256 i = 0; i < 3; i++) {
            _expect(IEscrowBase.NotMeter.selector, vm.addr(keys[i]));
            _closeBy(_data(0), _data(0), keys[i], witnessKey);
        }
    }

    function test_close_needs_the_witness() public {
        uint256[3] memory keys = [meterKey, buyerKey, providerKey];
        for (uint256 i = 0; i < 3; i++) {
            _expectNotOpen(_no, LeaseState.None);
            _closeBy(_data(0), _data(0), meterKey, keys[i]);
        }
    }

    function test_close_by_bad_signatures() public {
        CloseData memory data = _data(0);
        (bytes32 r, bytes32 vs) = _compact(meterKey, TypedData.close(data));
        _expect(IEscrowBase.NotMeter.selector, address(0));
        escrow.close(data, r, 0, r, vs);
        _expectNotOpen(_no, LeaseState.None);
        escrow.close(data, r, vs, r, 0);
    }

    /// @dev A bad signature recovers to zero: a number made with meter zero must not let it pass for one.
    function test_bad_signature_is_not_meter_zero() public {
        CloseData memory data = _data(0);
        data.leaseNo = bytes16(keccak256(abi.encode(data.termsHash, address(0))));
        (bytes32 r, bytes32 vs) = _compact(witnessKey, TypedData.close(data));
        _expect(IEscrowBase.NotMeter.selector, address(0));
        escrow.close(data, r, 0, r, vs);
    }

    function test_every_member_is_signed() public {
        vm.warp(_start + 1000);
        for (uint256 i = 0; i < 8; i++) {
            CloseData memory signed = _dataOfCounted(1000, 10, 10);
            CloseData memory sent = _dataOfCounted(1000, 10, 10);
            if (i == 0) sent.buyer = stranger;
            if (i == 1) sent.provider = stranger;
            if (i == 2) sent.leaseNo = _no;
            if (i == 3) sent.termsHash = keccak256("terms");
            if (i == 4) sent.ms++;
            if (i == 5) sent.egressMib++;
            if (i == 6) sent.units++;
            if (i == 7) sent.again = true;
            vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
            _closeBy(sent, signed, meterKey, witnessKey);
        }
        _closeNow(_dataOfCounted(1000, 10, 10));
    }

    function test_close_of_another_chain() public {
        CloseData memory data = _data(0);
        (bytes32 meterR, bytes32 meterVs) = _compact(meterKey, TypedData.close(data));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(witnessKey, TypedData.close(data));
        vm.chainId(block.chainid + 1);
        vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
        escrow.close(data, meterR, meterVs, witnessR, witnessVs);
    }

    function test_close_below_what_was_settled() public {
        vm.warp(_start + 100);
        assertTrue(_settle(_no, 50_000));
        _expect(IEscrowBase.UsageBelowSettled.selector, 50_000, 49_999);
        _closeNow(_data(49_999));

        assertTrue(_settleMetered(_countedNo, 1000, 20, 30));
        _expect(IEscrowBase.UsageBelowSettled.selector, 20, 19);
        _closeNow(_dataOfCounted(1000, 19, 30));
        _expect(IEscrowBase.UsageBelowSettled.selector, 30, 29);
        _closeNow(_dataOfCounted(1000, 20, 29));
    }

    function test_close_ahead_of_time() public {
        vm.warp(_start + 100);
        _expect(IEscrowBase.UsageAheadOfTime.selector, 100_000, 100_001);
        _closeNow(_data(100_001));
        _expect(IEscrowBase.UsageAheadOfTime.selector, 100_000, type(uint64).max);
        _closeNow(_data(type(uint64).max));
    }

    function test_close_with_figures_of_nothing() public {
        CloseData memory data = _data(0);
        data.egressMib = 1;
        _expect(IEscrowBase.LeaseNotCounted.selector, bytes32(_no));
        _closeNow(data);
        (data.egressMib, data.units) = (0, 1);
        _expect(IEscrowBase.LeaseNotCounted.selector, bytes32(_no));
        _closeNow(data);
    }

    function test_closed_is_final() public {
        vm.warp(_start + 100);
        _closeNow(_data(50_000));
        _expectNotOpen(_no, LeaseState.Closed);
        _closeNow(_data(50_000));
        vm.warp(_start + 100_000);
        _expectNotOpen(_no, LeaseState.Closed);
        escrow.refund(_key(_no));
    }

    /* CLOSE: DONE */

    function test_close_pays_and_returns_the_rest() public {
        vm.warp(_start + 1440);
        assertTrue(_settle(_no, 720_000));
        uint256 before = escrow.balanceOf(buyer);
        uint256 locked = _lease(_no).locked;
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Closed(_no, buyer, provider, 1_440_000, 1e18, locked - 0.5e18);
        _closeNow(_data(1_440_000));
        _assertState(_no, LeaseState.Closed);
        assertEq(_lease(_no).released, 1e18);
        assertEq(_lease(_no).locked, 0);
        assertEq(escrow.balanceOf(provider), 0.975e18);
        assertEq(escrow.feesOf(provider), 0.025e18);
        assertEq(escrow.balanceOf(buyer), before + locked - 0.5e18);
        assertEq(escrow.capacityUsed(provider, 7), 1000, "the other lease's");
    }

    function test_close_unused_returns_all() public {
        _closeNow(_data(0));
        assertEq(_lease(_no).released, 0);
        assertEq(escrow.balanceOf(buyer) + _lease(_countedNo).locked, FUNDS);
    }

    function test_close_of_a_stopped_lease() public {
        vm.warp(_start + 100);
        vm.prank(buyer);
        escrow.stop(_key(_no), false);
        vm.warp(_start + 200);
        _closeNow(_data(150_000)); // beyond the end: paid as the end
        assertEq(_lease(_no).usedMs, 100_000);
        assertEq(_lease(_no).released, uint256(2.5e18) * 100 / 3600);
    }

    function test_close_after_the_window() public {
        vm.warp(_start + 4200 + SETTLE_WINDOW + 1);
        _closeNow(_data(1_440_000));
        assertEq(_lease(_no).released, 1e18);
    }

    function test_close_counted_pays_up_to_the_caps() public {
        vm.warp(_start + 1440);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ClosedCounted(_countedNo, 10_240, 2000);
        vm.expectEmit(true, true, true, false, address(escrow));
        emit IEscrowBase.Closed(_countedNo, buyer, provider, 1_440_000, 3.8e18, 0);
        _closeNow(_dataOfCounted(1_440_000, 20_000, 2000));
        assertEq(_lease(_countedNo).released, 1e18 + 0.8e18 + 2e18);
        assertEq(_counted(_countedNo).egressMib, 10_240);
        assertEq(_counted(_countedNo).units, 2000);
    }

    function testFuzz_close_splits_the_lock(uint32 settled, uint32 ms, uint16 at) public {
        vm.warp(_start + at);
        _settle(_no, settled);
        uint256 least = _lease(_no).usedMs;
        ms = uint32(bound(ms, least, uint256(at) * 1000));
        uint256 owned = escrow.balanceOf(buyer) + _lease(_no).locked + _lease(_no).released;
        _closeNow(_data(ms));
        uint256 released = _lease(_no).released;
        assertEq(escrow.balanceOf(buyer) + released, owned);
        assertEq(escrow.balanceOf(provider) + escrow.feesOf(provider), released);
        uint256 paid = ms < 3_600_000 ? ms : 3_600_000;
        assertEq(released, uint256(2.5e12) * paid * 1e18 / 3.6e18);
    }

    /* REFUND */

    function test_refund_of_nothing() public {
        _expectNotOpen(_no, LeaseState.None);
        escrow.refund(LeaseKey(stranger, provider, witness, _no));
    }

    function test_refund_before_the_window_is_over() public {
        uint256 deadline = _start + 4200 + SETTLE_WINDOW;
        uint256[3] memory times = [_start, _start + 4200, deadline];
        for (uint256 i = 0; i < 3; i++) {
            vm.warp(times[i]);
            _expect(IEscrowBase.RefundTooEarly.selector, deadline, times[i]);
            escrow.refund(_key(_no));
        }
        vm.warp(deadline + 1);
        escrow.refund(_key(_no));
    }

    function test_refund_after_a_stop_counts_from_the_stop() public {
        vm.warp(_start + 100);
        vm.prank(provider);
        escrow.stop(_key(_no), false);
        vm.warp(_start + 100 + SETTLE_WINDOW);
        _expect(IEscrowBase.RefundTooEarly.selector, block.timestamp, block.timestamp);
        escrow.refund(_key(_no));
        vm.warp(_start + 101 + SETTLE_WINDOW);
        escrow.refund(_key(_no));
    }

    function test_refund_returns_what_was_not_earned() public {
        vm.warp(_start + 4200);
        assertTrue(_settleMetered(_countedNo, 1_440_000, 1024, 1000));
        (uint256 before, uint256 locked) = (escrow.balanceOf(buyer), _lease(_countedNo).locked);
        vm.warp(_start + 4200 + SETTLE_WINDOW + 1);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ClosedCounted(_countedNo, 1024, 1000);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Closed(_countedNo, buyer, provider, 1_440_000, 2.08e18, locked);
        vm.prank(stranger);
        escrow.refund(_key(_countedNo));
        _assertState(_countedNo, LeaseState.Closed);
        assertEq(_lease(_countedNo).released, 2.08e18);
        assertEq(_lease(_countedNo).locked, 0);
        assertEq(escrow.balanceOf(buyer), before + locked);
        assertEq(escrow.balanceOf(stranger), 0);
        assertEq(escrow.capacityUsed(provider, 7), 1000, "the other lease's");
    }
}
