// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

import {ComputeEscrow} from "../../src/ComputeEscrow.sol";
import {ComputeToken} from "../../src/ComputeToken.sol";
import {Ask, Bid, IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {
    BlockingToken,
    CallbackToken,
    FeeOnTransferToken,
    GenerousToken,
    LyingToken,
    PlainToken,
    SilentToken
} from "../support/Tokens.sol";

/// @notice Tokens that do not do as asked: refused, or harmless.
contract TokensTest is EscrowTest {
    uint256 private constant AMOUNT = 1000e18;

    function _deposit(PlainToken token_, address account, uint256 amount) private {
        token_.mint(account, amount);
        vm.startPrank(account);
        token_.approve(address(escrow), amount);
        escrow.deposit(amount);
        vm.stopPrank();
    }

    function test_fee_on_transfer_is_refused() public {
        FeeOnTransferToken taking = new FeeOnTransferToken();
        escrow = _newEscrow(address(taking), FEE_BPS);
        taking.mint(buyer, AMOUNT);
        vm.startPrank(buyer);
        taking.approve(address(escrow), AMOUNT);
        _expect(IEscrowBase.TransferMismatch.selector, AMOUNT, AMOUNT - AMOUNT / 100);
        escrow.deposit(AMOUNT);
    }

    function test_more_than_was_sent_is_refused() public {
        GenerousToken giving = new GenerousToken();
        escrow = _newEscrow(address(giving), FEE_BPS);
        giving.mint(buyer, AMOUNT);
        vm.startPrank(buyer);
        giving.approve(address(escrow), AMOUNT);
        _expect(IEscrowBase.TransferMismatch.selector, AMOUNT, AMOUNT + AMOUNT / 100);
        escrow.deposit(AMOUNT);
    }

    function test_lies_are_refused() public {
        LyingToken lying = new LyingToken();
        escrow = _newEscrow(address(lying), FEE_BPS);
        _deposit(lying, buyer, AMOUNT);

        lying.lie(true, false);
        vm.startPrank(buyer);
        vm.expectRevert();
        escrow.deposit(1);
        vm.expectRevert();
        escrow.withdraw(buyer, 1);

        lying.lie(true, true);
        _expect(IEscrowBase.TransferMismatch.selector, AMOUNT + 1, AMOUNT);
        escrow.deposit(1);
        assertEq(escrow.balanceOf(buyer), AMOUNT);
    }

    function test_token_that_returns_nothing_works() public {
        SilentToken silent = new SilentToken();
        escrow = _newEscrow(address(silent), FEE_BPS);
        silent.mint(buyer, AMOUNT);
        vm.startPrank(buyer);
        silent.approve(address(escrow), AMOUNT);
        escrow.deposit(AMOUNT);
        escrow.withdraw(stranger, AMOUNT - 1);
        assertEq(silent.balanceOf(stranger), AMOUNT - 1);
        vm.expectRevert();
        escrow.depositWithPermit(1, block.timestamp, 27, 0, 0); // has no permit, and nothing is approved
    }

    function test_reentrance_is_refused() public {
        CallbackToken calling = new CallbackToken();
        escrow = _newEscrow(address(calling), FEE_BPS);
        _deposit(calling, buyer, AMOUNT);
        bytes[] memory inner = new bytes[](1);
        inner[0] = abi.encodeCall(escrow.withdraw, (buyer, 1));
        bytes[5] memory calls = [
            abi.encodeCall(escrow.deposit, (1)),
            abi.encodeCall(escrow.depositFor, (buyer, 1)),
            abi.encodeCall(escrow.multicall, (inner)),
            abi.encodeCall(escrow.depositWithPermit, (1, block.timestamp, 27, 0, 0)),
            abi.encodeCall(escrow.withdraw, (buyer, 1))
        ];
        for (uint256 i = 0; i < 5; i++) {
            calling.onTransfer(address(escrow), calls[i]);
            vm.prank(buyer);
            escrow.withdraw(buyer, 1);
            assertFalse(calling.succeeded());
            assertEq(bytes4(calling.answer()), ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
            calling.onTransfer(address(0), "");
            calling.mint(buyer, 1);
            calling.onTransfer(address(escrow), calls[i]);
            vm.startPrank(buyer);
            calling.approve(address(escrow), 1);
            escrow.deposit(1);
            vm.stopPrank();
            assertFalse(calling.succeeded());
            assertEq(bytes4(calling.answer()), ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
        }
        assertEq(calling.balanceOf(address(escrow)), escrow.balanceOf(buyer));
    }

    /// @dev What is not guarded may run inside a transfer, and moves what it always moves.
    function test_lease_opened_inside_a_deposit_is_sound() public {
        CallbackToken calling = new CallbackToken();
        escrow = _newEscrow(address(calling), FEE_BPS);
        _deposit(calling, buyer, AMOUNT);
        calling.mint(buyer, AMOUNT);
        bytes memory call = abi.encodeCall(escrow.open, (_match(_ask(), _bid())));
        vm.startPrank(buyer);
        calling.approve(address(escrow), AMOUNT);
        calling.onTransfer(address(escrow), call);
        escrow.deposit(AMOUNT);
        assertTrue(calling.succeeded());
        bytes16 leaseNo = _leaseNo(_ask(), _bid());
        assertEq(escrow.balanceOf(buyer) + _lease(leaseNo).locked, 2 * AMOUNT);
        assertEq(calling.balanceOf(address(escrow)), 2 * AMOUNT);
    }

    function test_blocked_payee_stops_nobody_else() public {
        BlockingToken blocking = new BlockingToken();
        escrow = _newEscrow(address(blocking), FEE_BPS);
        _deposit(blocking, buyer, AMOUNT);
        bytes16 leaseNo = _open();
        vm.warp(block.timestamp + 1440);
        blocking.setBlocked(provider);
        assertTrue(_settle(leaseNo, 1_440_000), "paid inside");
        vm.expectRevert(abi.encodeWithSelector(BlockingToken.Blocked.selector, provider));
        vm.prank(provider);
        escrow.withdraw(provider, 0.975e18);
        vm.prank(provider);
        escrow.withdraw(stranger, 0.975e18); // its own money, to where the token lets it
        vm.prank(buyer);
        escrow.withdraw(buyer, 100e18);
        assertEq(blocking.balanceOf(buyer), 100e18);
    }

    /// @dev No end of a lease moves a token: only who withdraws meets the list.
    function test_blocked_party_stops_no_end() public {
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 4; i++) {
            (address blocked, address other) = i % 2 == 0 ? (provider, buyer) : (buyer, provider);
            BlockingToken blocking = new BlockingToken();
            escrow = _newEscrow(address(blocking), FEE_BPS);
            _deposit(blocking, buyer, AMOUNT);
            (Ask memory ask, Bid memory bid) = _lastingOrders();
            bytes16 leaseNo = escrow.open(_match(ask, bid));
            vm.warp(block.timestamp + 1440);
            blocking.setBlocked(blocked);
            if (i < 2) {
                _close(ask, bid, 1_440_000, 0, 0);
            } else {
                assertTrue(_settle(leaseNo, 1_440_000));
                vm.prank(provider);
                escrow.stop(_key(leaseNo), false);
                vm.warp(block.timestamp + SETTLE_WINDOW + 1);
                escrow.refund(_key(leaseNo));
            }
            assertEq(escrow.balanceOf(buyer), AMOUNT - 1e18);
            assertEq(escrow.balanceOf(provider), 0.975e18);

            uint256 balance = escrow.balanceOf(other);
            vm.prank(other);
            escrow.withdraw(other, balance);
            assertEq(blocking.balanceOf(other), balance);
            balance = escrow.balanceOf(blocked);
            vm.expectRevert(abi.encodeWithSelector(BlockingToken.Blocked.selector, blocked));
            vm.prank(blocked);
            escrow.withdraw(blocked, balance);
            vm.revertToState(snapshot);
        }
    }

    function test_donation_belongs_to_nobody() public {
        token.transfer(address(escrow), 7e18);
        assertEq(escrow.balanceOf(address(escrow)), 0);
        _fund(stranger, 1e18);
        assertEq(escrow.balanceOf(stranger), 1e18);
        _expect(IEscrowBase.InsufficientBalance.selector, 1e18, 1e18 + 1);
        vm.prank(stranger);
        escrow.withdraw(stranger, 1e18 + 1);
    }

    function test_holdings_beyond_96_bits_are_refused() public {
        PlainToken plain = new PlainToken(18);
        escrow = _newEscrow(address(plain), FEE_BPS);
        _deposit(plain, buyer, type(uint96).max);
        plain.mint(stranger, 1);
        vm.startPrank(stranger);
        plain.approve(address(escrow), 1);
        uint256 most = type(uint96).max;
        _expect(IEscrowBase.HoldingsTooLarge.selector, most, most + 1);
        escrow.deposit(1);
        vm.stopPrank();
        vm.prank(buyer);
        escrow.withdraw(buyer, type(uint96).max);
    }

    function test_single_atom_is_paid() public {
        PlainToken plain = new PlainToken(6);
        escrow = _newEscrow(address(plain), FEE_BPS);
        _deposit(plain, buyer, 1000e6);
        bytes16 leaseNo = _open();
        vm.warp(block.timestamp + 1);
        assertTrue(_settle(leaseNo, 2)); // 1.4 atoms
        assertEq(_lease(leaseNo).released, 1);
        assertEq(escrow.balanceOf(provider), 1);
        assertEq(escrow.feesOf(provider), 0);
    }

    function testFuzz_decimals_scale_every_amount(uint8 decimals) public {
        decimals = uint8(bound(decimals, 0, 18));
        PlainToken plain = new PlainToken(decimals);
        escrow = _newEscrow(address(plain), FEE_BPS);
        uint256 unit = 10 ** decimals;
        _deposit(plain, buyer, 1000 * unit);
        uint256 floor = 2.5e12 * 3600 * unit;
        bytes16 leaseNo = _open();
        assertEq(_lease(leaseNo).locked, (floor + 3.6e15 - 1) / 3.6e15);
        vm.warp(block.timestamp + 1440);
        assertTrue(_settle(leaseNo, 1_440_000));
        assertEq(_lease(leaseNo).released, unit);
        assertEq(escrow.cost(2.5e12, 1_440_000), unit);
    }
}
