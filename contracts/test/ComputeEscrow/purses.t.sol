// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase, Numbered, Purse, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice createPurse, fundPurse, sweepPurse, expirePurse and their views. Leases of purses: purseLeases.t.sol.
contract PursesTest is EscrowTest {
    uint256 private constant AMOUNT = 10e18;
    uint64 private constant SALT = 5;

    address private _operator;
    uint256 private _operatorKey;
    uint40 private _expiry;
    address private _purse;

    function setUp() public override {
        super.setUp();
        (_operator, _operatorKey) = makeAddrAndKey("operator");
        _expiry = uint40(block.timestamp + 1 days);
        vm.prank(buyer);
        _purse = escrow.createPurse(_operator, SALT, _expiry, AMOUNT);
    }

    function _assertPurse(address purse, address owner, address operator, uint40 expiry) private view {
        Purse memory box = escrow.purse(purse);
        assertEq(box.owner, owner);
        assertEq(box.operator, operator);
        assertEq(box.expiry, expiry);
    }

    /* CREATE */

    function test_purse_without_an_operator_is_refused() public {
        _expect(IEscrowBase.InvalidParty.selector, address(0));
        escrow.createPurse(address(0), SALT, _expiry, 0);
    }

    function test_purse_that_has_expired_is_refused() public {
        _expect(IEscrowBase.PurseExpired.selector, block.timestamp - 1, block.timestamp);
        escrow.createPurse(_operator, SALT, uint40(block.timestamp - 1), 0);
        escrow.createPurse(_operator, SALT, uint40(block.timestamp), 0); // the last second counts
    }

    function test_purse_is_made_once() public {
        vm.startPrank(buyer);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.PurseExists.selector, _purse));
        escrow.createPurse(_operator, SALT, _expiry + 1, 1);
        escrow.sweepPurse(_purse, AMOUNT);
        escrow.expirePurse(_purse, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.PurseExists.selector, _purse)); // nor when it is over
        escrow.createPurse(_operator, SALT, _expiry, 1);
    }

    function test_purse_costs_its_owners_free_balance() public {
        _expect(IEscrowBase.InsufficientBalance.selector, FUNDS - AMOUNT, FUNDS - AMOUNT + 1);
        vm.prank(buyer);
        escrow.createPurse(_operator, SALT + 1, _expiry, FUNDS - AMOUNT + 1);
        assertEq(escrow.purse(escrow.purseOf(buyer, _operator, SALT + 1)).owner, address(0));
        assertEq(escrow.balanceOf(buyer), FUNDS - AMOUNT);
        assertEq(escrow.balanceOf(_purse), AMOUNT);
    }

    function test_created_purse_is_as_said() public {
        address purse = escrow.purseOf(stranger, _operator, 9);
        _assertPurse(purse, address(0), address(0), 0);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.PurseCreated(purse, stranger, _operator, 9, _expiry);
        vm.recordLogs();
        vm.prank(stranger);
        assertEq(escrow.createPurse(_operator, 9, _expiry, 0), purse);
        assertEq(vm.getRecordedLogs().length, 1, "nothing was put in");
        _assertPurse(purse, stranger, _operator, _expiry);
        assertEq(escrow.balanceOf(purse), 0);
    }

    function test_created_purse_with_an_amount_is_funded() public {
        address purse = escrow.purseOf(buyer, stranger, SALT);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.PurseCreated(purse, buyer, stranger, SALT, _expiry);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.PurseFunded(purse, buyer, 7);
        vm.prank(buyer);
        escrow.createPurse(stranger, SALT, _expiry, 7);
        assertEq(escrow.balanceOf(purse), 7);
        assertEq(escrow.balanceOf(buyer), FUNDS - AMOUNT - 7);
    }

    /// @dev Nobody can stand in a purse's place: its address is of all that makes it this one.
    function test_every_owner_operator_salt_chain_and_escrow_has_another_purse() public {
        bytes32 domain = TypedData.domain(block.chainid, address(escrow));
        assertEq(_purse, address(uint160(uint256(keccak256(abi.encode(domain, buyer, _operator, SALT))))));
        assertEq(_purse, escrow.purseOf(buyer, _operator, SALT));
        assertNotEq(_purse, escrow.purseOf(stranger, _operator, SALT));
        assertNotEq(_purse, escrow.purseOf(buyer, stranger, SALT));
        assertNotEq(_purse, escrow.purseOf(_operator, buyer, SALT));
        assertNotEq(_purse, escrow.purseOf(buyer, _operator, SALT + 1));
        assertNotEq(_purse, _newEscrow(address(token), FEE_BPS).purseOf(buyer, _operator, SALT));
        vm.chainId(block.chainid + 1);
        assertNotEq(_purse, escrow.purseOf(buyer, _operator, SALT));
    }

    /* OWNER ONLY */

    function _refuseAll(address purse, address sender, bytes memory error) private {
        vm.startPrank(sender);
        vm.expectRevert(error);
        escrow.fundPurse(purse, 1);
        vm.expectRevert(error);
        escrow.sweepPurse(purse, 1);
        vm.expectRevert(error);
        escrow.expirePurse(purse, 1);
        vm.stopPrank();
    }

    function test_operator_and_others_cannot_fund_sweep_or_expire() public {
        _fund(_operator, 1e18);
        address[4] memory others = [_operator, provider, stranger, _purse];
        for (uint256 i = 0; i < 4; i++) {
            _refuseAll(_purse, others[i], abi.encodeWithSelector(IEscrowBase.NotPurseOwner.selector, buyer, others[i]));
        }
    }

    function test_account_that_is_no_purse_is_refused() public {
        _refuseAll(stranger, buyer, abi.encodeWithSelector(IEscrowBase.UnknownPurse.selector, stranger));
        _refuseAll(buyer, buyer, abi.encodeWithSelector(IEscrowBase.UnknownPurse.selector, buyer));
        _refuseAll(address(0), address(0), abi.encodeWithSelector(IEscrowBase.UnknownPurse.selector, address(0)));
    }

    function test_nothing_is_no_amount() public {
        vm.startPrank(buyer);
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        escrow.fundPurse(_purse, 0);
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        escrow.sweepPurse(_purse, 0);
    }

    /* FUND AND SWEEP */

    function test_more_than_is_free_cannot_be_moved() public {
        vm.startPrank(buyer);
        _expect(IEscrowBase.InsufficientBalance.selector, FUNDS - AMOUNT, FUNDS - AMOUNT + 1);
        escrow.fundPurse(_purse, FUNDS - AMOUNT + 1);
        _expect(IEscrowBase.InsufficientBalance.selector, AMOUNT, AMOUNT + 1);
        escrow.sweepPurse(_purse, AMOUNT + 1);
        escrow.sweepPurse(_purse, AMOUNT);
        _expect(IEscrowBase.InsufficientBalance.selector, 0, 1);
        escrow.sweepPurse(_purse, 1);
    }

    function testFuzz_funds_move_between_owner_and_purse_alone(uint96 amount, uint96 back, bool expired) public {
        amount = uint96(bound(amount, 1, FUNDS - AMOUNT));
        back = uint96(bound(back, 1, AMOUNT + amount));
        if (expired) vm.warp(uint256(_expiry) + 1);
        vm.startPrank(buyer);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.PurseFunded(_purse, buyer, amount);
        escrow.fundPurse(_purse, amount);
        assertEq(escrow.balanceOf(_purse), AMOUNT + amount);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.PurseSwept(_purse, buyer, back);
        escrow.sweepPurse(_purse, back);
        assertEq(escrow.balanceOf(_purse), AMOUNT + amount - back);
        assertEq(escrow.balanceOf(buyer), FUNDS - AMOUNT - amount + back);
        assertEq(token.balanceOf(address(escrow)), FUNDS);
    }

    function test_anyone_deposits_for_a_purse() public {
        token.transfer(stranger, 3);
        vm.startPrank(stranger);
        token.approve(address(escrow), 3);
        escrow.depositFor(_purse, 3);
        assertEq(escrow.balanceOf(_purse), AMOUNT + 3);
    }

    /* EXPIRE */

    function test_expiry_only_moves_forward() public {
        vm.startPrank(buyer);
        uint40[3] memory later = [_expiry, _expiry + 1, type(uint40).max];
        for (uint256 i = 0; i < 3; i++) {
            _expect(IEscrowBase.ExpiryNotEarlier.selector, _expiry, later[i]);
            escrow.expirePurse(_purse, later[i]);
        }
        vm.expectEmit(address(escrow));
        emit IEscrowBase.PurseExpiryMoved(_purse, _expiry - 1);
        escrow.expirePurse(_purse, _expiry - 1);
        _assertPurse(_purse, buyer, _operator, _expiry - 1);
        _expect(IEscrowBase.ExpiryNotEarlier.selector, _expiry - 1, _expiry);
        escrow.expirePurse(_purse, _expiry);
        escrow.expirePurse(_purse, 0);
        _assertPurse(_purse, buyer, _operator, 0);
        assertEq(escrow.balanceOf(_purse), AMOUNT);
    }

    /* NOTHING LEAVES BUT BY SWEEP */

    /// @dev Owner and operator sign, and neither is the purse: it has no key, and tokens leave by keys alone.
    function test_nobody_withdraws_from_a_purse() public {
        Relay memory relay = Relay(1, type(uint40).max, address(0), 0);
        bytes32 structHash = TypedData.withdraw(_purse, stranger, 1, relay);
        uint256[2] memory keys = [buyerKey, _operatorKey];
        for (uint256 i = 0; i < 2; i++) {
            bytes memory signature = _sign(keys[i], structHash);
            _expect(IEscrowBase.InvalidSignature.selector, _purse);
            vm.prank(vm.addr(keys[i]));
            escrow.withdrawBySignature(_purse, stranger, 1, relay, signature);
            _expect(IEscrowBase.InsufficientBalance.selector, i == 0 ? FUNDS - AMOUNT : 0, FUNDS);
            vm.prank(vm.addr(keys[i]));
            escrow.withdraw(stranger, FUNDS); // only what is theirs
        }
        assertEq(escrow.balanceOf(_purse), AMOUNT);
    }

    /* CANCEL */

    function _isCancelled(Numbered kind, uint64 salt) private view returns (bool cancelled) {
        (, cancelled) = escrow.saltState(_purse, kind, salt);
    }

    function test_owner_and_operator_cancel_for_a_purse_at_any_time() public {
        uint256[2] memory keys = [buyerKey, _operatorKey];
        for (uint256 expired = 0; expired < 2; expired++) {
            if (expired == 1) vm.warp(uint256(_expiry) + 1);
            for (uint64 i = 0; i < 2; i++) {
                uint64 salt = uint64(expired * 100) + i * 10;
                vm.prank(vm.addr(keys[i]));
                escrow.cancel(_purse, Numbered.Orders, salt, false, "");
                assertTrue(_isCancelled(Numbered.Orders, salt));
                bytes memory signature = _sign(keys[i], TypedData.cancel(_purse, Numbered.Calls, salt, true));
                vm.prank(stranger);
                escrow.cancel(_purse, Numbered.Calls, salt, true, signature);
                assertEq(escrow.saltsFrom(_purse, Numbered.Calls), salt + 1);
            }
        }
    }

    function test_others_cannot_cancel_for_a_purse() public {
        bytes32 structHash = TypedData.cancel(_purse, Numbered.Orders, 1, false);
        uint256[3] memory keys = [providerKey, witnessKey, meterKey];
        for (uint256 i = 0; i < 3; i++) {
            bytes memory signature = _sign(keys[i], structHash);
            _expect(IEscrowBase.InvalidSignature.selector, _purse);
            escrow.cancel(_purse, Numbered.Orders, 1, false, signature);
        }
        bytes memory own = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, false));
        _expect(IEscrowBase.InvalidSignature.selector, _purse);
        escrow.cancel(_purse, Numbered.Orders, 1, false, own);
    }
}
