// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState, Match} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

/// @notice What both orders must accept: shares of a GPU, none at all, and leases that may be interrupted.
contract FlagsTest is EscrowTest {
    uint16 private constant SHARED = 1;
    uint16 private constant NO_GPU = 2;
    uint16 private constant INTERRUPTIBLE = 4;

    /// @dev Eight cores at 0.01 per core and hour, without a GPU.
    function _cpuOrders() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = _lastingOrders();
        (ask.floor.cpuHour, ask.flags, bid.flags, bid.gpuMilli) = (0.01e9, NO_GPU, NO_GPU, 0);
    }

    function _interruptible() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = _lastingOrders();
        (ask.flags, bid.flags) = (INTERRUPTIBLE, INTERRUPTIBLE);
        (ask.noticeSeconds, bid.minNoticeSeconds) = (30, 30);
    }

    function _refuse(Ask memory ask, Bid memory bid) private {
        Match memory order = _match(ask, bid);
        _expect(IEscrowBase.FlagNotAccepted.selector, ask.flags, bid.flags);
        escrow.open(order);
    }

    /* NO GPU */

    function test_lease_without_a_gpu_needs_both_flags() public {
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        uint16[2][4] memory flags = [[uint16(0), 0], [NO_GPU, 0], [uint16(0), NO_GPU], [SHARED, SHARED]];
        for (uint256 i = 0; i < 4; i++) {
            (ask.flags, bid.flags) = (flags[i][0], flags[i][1]);
            _refuse(ask, bid);
        }
        (ask.flags, bid.flags) = (NO_GPU, NO_GPU);
        escrow.open(_match(ask, bid));
    }

    function test_flags_for_no_gpu_accept_no_share() public {
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        bid.gpuMilli = 1;
        _refuse(ask, bid);
    }

    function test_flag_for_no_gpu_excludes_none() public {
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        bid.gpuMilli = 1000;
        escrow.open(_match(ask, bid));
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    function test_lease_without_a_gpu_pays_for_the_rest() public {
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertEq(_lease(leaseNo).gpuMilli, 0);
        assertEq(_lease(leaseNo).rate, 0.08e12);
        assertEq(_lease(leaseNo).locked, 0.08e18);
        vm.warp(block.timestamp + 1800);
        assertTrue(_settle(leaseNo, 1_800_000));
        assertEq(_lease(leaseNo).released, 0.04e18);
    }

    /// @dev A node of no GPU at all is offered the same way.
    function test_ask_without_a_gpu_serves_it() public {
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        ask.gpuMilli = 0;
        escrow.open(_match(ask, bid));
        (bid.gpuMilli, bid.salt) = (1000, 2);
        Match memory order = _match(ask, bid);
        _expect(IEscrowBase.SizeTooLarge.selector, 0, 1000);
        escrow.open(order);
    }

    /// @dev However such a lease ends, it frees nothing of the others.
    function test_lease_without_a_gpu_leaves_the_capacity_alone() public {
        Bid memory whole = _bidOf(2);
        (whole.gpuMilli, whole.limits[0].rate) = (8000, type(uint64).max);
        escrow.open(_match(_ask(), whole));
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        bytes16[4] memory leaseNos;
        for (uint64 i = 0; i < 4; i++) {
            bid.salt = 3 + i;
            leaseNos[i] = escrow.open(_match(ask, bid)); // on a node whose GPUs are all taken
            assertEq(escrow.capacityUsed(provider, 7), 8000);
        }
        bid.salt = 3;
        _close(ask, bid, 0, 0, 0);
        vm.prank(provider);
        escrow.stop(_key(leaseNos[1]), false);
        vm.warp(block.timestamp + 4200);
        assertEq(escrow.free(_keys(leaseNos[2])), hex"00");
        assertEq(escrow.capacityUsed(provider, 7), 8000);
        vm.warp(block.timestamp + SETTLE_WINDOW + 1);
        for (uint256 i = 1; i < 4; i++) {
            escrow.refund(_key(leaseNos[i]));
        }
        assertEq(escrow.capacityUsed(provider, 7), 8000);
    }

    function test_lease_without_a_gpu_uses_no_capacity_of_an_unused_node() public {
        (Ask memory ask, Bid memory bid) = _cpuOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertEq(escrow.capacityUsed(provider, 7), 0);
        vm.prank(buyer);
        escrow.stop(_key(leaseNo), false);
        assertEq(escrow.capacityUsed(provider, 7), 0);
        _assertState(leaseNo, LeaseState.Stopped);
    }

    /* INTERRUPTIBLE */

    function test_interruptible_ask_needs_the_bids_flag() public {
        (Ask memory ask, Bid memory bid) = _interruptible();
        bid.flags = SHARED | NO_GPU;
        _refuse(ask, bid);
        bid.flags = 0xffff ^ INTERRUPTIBLE;
        _refuse(ask, bid);
    }

    function test_notice_shorter_than_the_bids_is_refused() public {
        (Ask memory ask, Bid memory bid) = _interruptible();
        ask.noticeSeconds = 29;
        Match memory order = _match(ask, bid);
        _expect(IEscrowBase.NoticeTooShort.selector, 30, 29);
        escrow.open(order);
        ask.noticeSeconds = 30;
        escrow.open(_match(ask, bid));
    }

    /// @dev The notice is about interruptions: of an ask that promises none it says nothing.
    function test_notice_does_not_matter_without_interruptions() public {
        (Ask memory ask, Bid memory bid) = _interruptible();
        (ask.flags, ask.noticeSeconds, bid.minNoticeSeconds) = (0, 0, type(uint16).max);
        escrow.open(_match(ask, bid));
    }

    function testFuzz_interruptible_orders_fit_by_flag_and_notice(
        uint16 askFlags,
        uint16 bidFlags,
        uint16[2] memory notice
    ) public {
        (Ask memory ask, Bid memory bid) = _interruptible();
        (ask.flags, bid.flags, ask.noticeSeconds, bid.minNoticeSeconds) = (askFlags, bidFlags, notice[0], notice[1]);
        bool interruptible = askFlags & INTERRUPTIBLE != 0;
        Match memory order = _match(ask, bid);
        if (interruptible && bidFlags & INTERRUPTIBLE == 0) {
            _expect(IEscrowBase.FlagNotAccepted.selector, askFlags, bidFlags);
        } else if (interruptible && notice[0] < notice[1]) {
            _expect(IEscrowBase.NoticeTooShort.selector, notice[1], notice[0]);
        }
        escrow.open(order);
    }
}
