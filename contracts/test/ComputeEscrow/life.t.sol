// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, Lease, LeaseState, Match} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

/// @notice Whole lives of leases, from deposit to withdrawal.
contract LifeTest is EscrowTest {
    /// @dev Rate 2.5e12 (2.5 tokens an hour); paid for an hour, with ten more minutes to start in.
    uint256 internal constant LOCK = 2.5e18;

    function _one(bytes16 leaseNo) private pure returns (bytes16[] memory leaseNos) {
        leaseNos = new bytes16[](1);
        leaseNos[0] = leaseNo;
    }

    function test_open_settle_close_withdraw() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bytes16 leaseNo = _open();
        assertEq(leaseNo, _leaseNo(ask, bid));
        assertEq(escrow.balanceOf(buyer), FUNDS - LOCK);
        assertEq(escrow.capacityUsed(provider, 7), 1000);
        Lease memory lease = _lease(leaseNo);
        assertEq(lease.rate, 2.5e12);
        assertEq(lease.fundedSeconds, 4200);
        assertEq(lease.locked, LOCK);

        vm.warp(block.timestamp + 1800);
        assertTrue(_settle(leaseNo, 1_440_000), "settled");
        assertEq(escrow.balanceOf(provider), 0.975e18); // 24 minutes are 1 token, less 2.5 %
        assertEq(escrow.feesOf(provider), 0.025e18);
        _assertConserved(_one(leaseNo));

        vm.warp(block.timestamp + 600);
        _close(ask, bid, 2_160_000, 0, 0);
        _assertState(leaseNo, LeaseState.Closed);
        assertEq(escrow.balanceOf(provider), 1.4625e18); // 36 minutes are 1.5 tokens
        assertEq(escrow.balanceOf(buyer), FUNDS - 1.5e18);
        assertEq(escrow.capacityUsed(provider, 7), 0);
        _assertConserved(_one(leaseNo));

        address[] memory providers = new address[](1);
        providers[0] = provider;
        escrow.collectFees(providers);
        vm.prank(provider);
        escrow.withdraw(provider, 1.4625e18);
        vm.prank(feeRecipient);
        escrow.withdraw(feeRecipient, 0.0375e18);
        vm.prank(buyer);
        escrow.withdraw(stranger, FUNDS - 1.5e18);
        assertEq(token.balanceOf(provider), 1.4625e18);
        assertEq(token.balanceOf(stranger), FUNDS - 1.5e18);
        assertEq(token.balanceOf(address(escrow)), 0);
    }

    function test_open_stop_refund() public {
        bytes16 leaseNo = _open();
        vm.warp(block.timestamp + 100);
        vm.prank(buyer);
        escrow.stop(_key(leaseNo), false);
        _assertState(leaseNo, LeaseState.Stopped);
        assertEq(_lease(leaseNo).fundedSeconds, 100);
        _assertConserved(_one(leaseNo));

        vm.warp(block.timestamp + SETTLE_WINDOW);
        assertTrue(_settle(leaseNo, 90_000), "last second of the window");
        assertEq(_lease(leaseNo).released, 0.0625e18);

        vm.warp(block.timestamp + 1);
        vm.prank(stranger);
        escrow.refund(_key(leaseNo));
        _assertState(leaseNo, LeaseState.Closed);
        assertEq(escrow.balanceOf(buyer), FUNDS - 0.0625e18);
        assertEq(escrow.capacityUsed(provider, 7), 0);
        _assertConserved(_one(leaseNo));
    }

    function test_counted_open_settle_close() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        bytes16 leaseNo = _openCounted();
        assertEq(_lease(leaseNo).locked, LOCK + 0.8e18 + 5e18);

        vm.warp(block.timestamp + 1800);
        assertTrue(_settleMetered(leaseNo, 1_440_000, 1024, 1000), "settled");
        assertEq(_lease(leaseNo).released, 1e18 + 0.08e18 + 1e18);
        assertTrue(_settleMetered(leaseNo, 0, 0, 1500), "units alone");
        assertEq(_lease(leaseNo).released, 1e18 + 0.08e18 + 1.5e18);

        _close(ask, bid, 1_440_000, 2048, 2000);
        assertEq(_lease(leaseNo).released, 1e18 + 0.16e18 + 2e18);
        assertEq(escrow.balanceOf(buyer), FUNDS - 3.16e18);
        _assertConserved(_one(leaseNo));
    }

    function test_batch_opens_what_can_be_opened() public {
        Match[] memory orders = new Match[](3);
        orders[0] = _match(_ask(), _bid());
        Bid memory elsewhere = _bid();
        elsewhere.salt = 2;
        elsewhere.limits[0].tier = "other";
        orders[1] = _match(_ask(), elsewhere);
        Bid memory last = _bid();
        last.salt = 3;
        orders[2] = _match(_ask(), last);
        bytes memory skipped = escrow.openBatch(orders);
        assertEq(skipped, hex"02");
        _assertState(_leaseNo(_ask(), last), LeaseState.Active);
        assertEq(escrow.capacityUsed(provider, 7), 2000);
    }
}
