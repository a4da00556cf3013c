// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

/// @notice deposit, depositWithPermit, withdraw and collectFees with an ordinary token.
contract FundsTest is EscrowTest {
    uint256 private constant AMOUNT = 5e18;

    address private _owner;
    uint256 private _ownerKey;

    function setUp() public override {
        super.setUp();
        (_owner, _ownerKey) = makeAddrAndKey("owner");
        token.transfer(_owner, AMOUNT);
    }

    function _permit(uint256 amount, uint256 deadline) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash =
            keccak256(abi.encode(typeHash, _owner, address(escrow), amount, token.nonces(_owner), deadline));
        return vm.sign(_ownerKey, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
    }

    /* DEPOSIT */

    function test_deposit_of_nothing_reverts() public {
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        escrow.deposit(0);
    }

    function test_deposit_without_approval_reverts() public {
        vm.expectRevert();
        vm.prank(_owner);
        escrow.deposit(AMOUNT);
    }

    function testFuzz_deposit_credits_the_sender_alone(uint256 amount) public {
        amount = bound(amount, 1, AMOUNT);
        vm.startPrank(_owner);
        token.approve(address(escrow), amount);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Deposited(_owner, amount);
        escrow.deposit(amount);
        assertEq(escrow.balanceOf(_owner), amount);
        assertEq(escrow.balanceOf(buyer), FUNDS);
        assertEq(token.balanceOf(address(escrow)), FUNDS + amount);
    }

    /* DEPOSIT WITH PERMIT */

    /// @dev A selector and two words, and nothing behind them.
    function test_errors_are_as_long_as_their_words() public {
        vm.prank(stranger);
        (bool ok, bytes memory data) = address(escrow).call(abi.encodeCall(escrow.withdraw, (stranger, 1)));
        assertFalse(ok);
        assertEq(data, abi.encodeWithSelector(IEscrowBase.InsufficientBalance.selector, 0, 1));
    }

    function test_permit_of_another_amount_reverts() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(AMOUNT - 1, block.timestamp);
        _expect(IEscrowBase.PermitFailed.selector, AMOUNT, 0);
        vm.prank(_owner);
        escrow.depositWithPermit(AMOUNT, block.timestamp, v, r, s);
    }

    function test_permit_of_another_account_reverts() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(AMOUNT, block.timestamp);
        _expect(IEscrowBase.PermitFailed.selector, AMOUNT, 0);
        vm.prank(stranger);
        escrow.depositWithPermit(AMOUNT, block.timestamp, v, r, s);
    }

    function test_expired_permit_reverts() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(AMOUNT, block.timestamp - 1);
        _expect(IEscrowBase.PermitFailed.selector, AMOUNT, 0);
        vm.prank(_owner);
        escrow.depositWithPermit(AMOUNT, block.timestamp - 1, v, r, s);
    }

    function test_permit_deposits_in_one_call() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(AMOUNT, block.timestamp);
        vm.prank(_owner);
        escrow.depositWithPermit(AMOUNT, block.timestamp, v, r, s);
        assertEq(escrow.balanceOf(_owner), AMOUNT);
    }

    function test_front_run_permit_does_not_stop_the_deposit() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(AMOUNT, block.timestamp);
        vm.prank(stranger);
        token.permit(_owner, address(escrow), AMOUNT, block.timestamp, v, r, s);
        vm.prank(_owner);
        escrow.depositWithPermit(AMOUNT, block.timestamp, v, r, s);
        assertEq(escrow.balanceOf(_owner), AMOUNT);
    }

    /* HOLDINGS */

    /// @dev Balances have 96 bits and sums of them are never checked again, so the sum of all is, donations included.
    function testFuzz_holdings_are_bounded_at_96_bits(uint256 held, uint256 amount, bool permit) public {
        uint256 most = type(uint96).max;
        held = bound(held, most - AMOUNT, most);
        amount = bound(amount, 1, AMOUNT);
        deal(address(token), address(escrow), held);
        (uint8 v, bytes32 r, bytes32 s) = _permit(amount, block.timestamp);
        vm.startPrank(_owner);
        token.approve(address(escrow), amount);
        bool fits = held + amount <= most;
        if (!fits) _expect(IEscrowBase.HoldingsTooLarge.selector, most, held + amount);
        if (permit) escrow.depositWithPermit(amount, block.timestamp, v, r, s);
        else escrow.deposit(amount);
        assertEq(escrow.balanceOf(_owner), fits ? amount : 0);
    }

    function test_holdings_of_exactly_96_bits_are_taken() public {
        deal(address(token), address(escrow), type(uint96).max - AMOUNT);
        vm.startPrank(_owner);
        token.approve(address(escrow), AMOUNT);
        escrow.deposit(AMOUNT);
        escrow.withdraw(_owner, AMOUNT);
        token.approve(address(escrow), AMOUNT + 1);
        deal(address(token), _owner, AMOUNT + 1);
        _expect(IEscrowBase.HoldingsTooLarge.selector, type(uint96).max, uint256(type(uint96).max) + 1);
        escrow.deposit(AMOUNT + 1);
    }

    /* WITHDRAW */

    function test_withdraw_to_nobody_or_the_escrow_reverts() public {
        vm.startPrank(buyer);
        _expect(IEscrowBase.InvalidRecipient.selector, address(0));
        escrow.withdraw(address(0), 1);
        _expect(IEscrowBase.InvalidRecipient.selector, address(escrow));
        escrow.withdraw(address(escrow), 1);
    }

    function test_withdraw_of_nothing_reverts() public {
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        vm.prank(buyer);
        escrow.withdraw(buyer, 0);
    }

    function test_withdraw_of_more_than_free_reverts() public {
        bytes16 leaseNo = _open();
        uint256 free = FUNDS - _lease(leaseNo).locked;
        _expect(IEscrowBase.InsufficientBalance.selector, free, free + 1);
        vm.prank(buyer);
        escrow.withdraw(buyer, free + 1);
    }

    function test_stranger_withdraws_nothing() public {
        _expect(IEscrowBase.InsufficientBalance.selector, 0, 1);
        vm.prank(stranger);
        escrow.withdraw(stranger, 1);
    }

    function testFuzz_withdraw_moves_free_balance_anywhere(uint256 amount) public {
        bytes16 leaseNo = _open();
        uint256 free = FUNDS - _lease(leaseNo).locked;
        amount = bound(amount, 1, free);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Withdrawn(buyer, stranger, amount);
        vm.prank(buyer);
        escrow.withdraw(stranger, amount);
        assertEq(token.balanceOf(stranger), amount);
        assertEq(escrow.balanceOf(buyer), free - amount);
    }

    /* FEES */

    function _earn() private returns (uint256 fees) {
        bytes16 leaseNo = _open();
        vm.warp(block.timestamp + 1440);
        assertTrue(_settle(leaseNo, 1_440_000));
        fees = escrow.feesOf(provider);
        assertEq(fees, 0.025e18);
    }

    function test_fees_are_not_the_providers() public {
        _earn();
        _expect(IEscrowBase.InsufficientBalance.selector, 0.975e18, 1e18);
        vm.prank(provider);
        escrow.withdraw(provider, 1e18);
    }

    function test_anyone_collects_fees_for_the_recipient_once() public {
        uint256 fees = _earn();
        address[] memory providers = new address[](3);
        (providers[0], providers[1], providers[2]) = (provider, stranger, provider);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.FeesCollected(provider, feeRecipient, fees);
        vm.recordLogs();
        vm.prank(stranger);
        escrow.collectFees(providers);
        assertEq(vm.getRecordedLogs().length, 1);
        assertEq(escrow.feesOf(provider), 0);
        assertEq(escrow.balanceOf(feeRecipient), fees);
        assertEq(escrow.balanceOf(provider), 0.975e18);
    }
}
