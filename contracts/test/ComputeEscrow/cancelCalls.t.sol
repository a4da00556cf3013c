// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase, Numbered} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice cancel of both kinds of numbers: orders and signed calls, apart from each other. Orders alone: cancel.t.sol.
contract CancelCallsTest is EscrowTest {
    uint64 private constant LAST = type(uint64).max;

    function _cancel(Numbered kind, uint64 salt, bool andOlder) private {
        vm.prank(buyer);
        escrow.cancel(buyer, kind, salt, andOlder, "");
    }

    function _isCancelled(Numbered kind, uint64 salt) private view returns (bool cancelled) {
        (, cancelled) = escrow.saltState(buyer, kind, salt);
    }

    function _other(Numbered kind) private pure returns (Numbered) {
        return kind == Numbered.Orders ? Numbered.Calls : Numbered.Orders;
    }

    /* REFUSED */

    function test_kind_that_is_none_is_refused() public {
        bytes memory call = abi.encodeCall(escrow.cancel, (buyer, Numbered.Calls, 1, false, ""));
        call[4 + 63] = 0x02;
        vm.prank(buyer);
        (bool ok,) = address(escrow).call(call);
        assertFalse(ok);
    }

    function test_last_number_and_all_older_is_refused_of_either_kind() public {
        for (uint256 i = 0; i < 2; i++) {
            _expect(IEscrowBase.SaltTooLarge.selector, LAST - 1, LAST);
            _cancel(Numbered(i), LAST, true);
        }
    }

    function test_signature_of_one_kind_does_not_cancel_the_other() public {
        for (uint256 i = 0; i < 2; i++) {
            Numbered kind = Numbered(i);
            bytes memory signature = _sign(buyerKey, TypedData.cancel(buyer, kind, 1, true));
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            escrow.cancel(buyer, _other(kind), 1, true, signature);
            escrow.cancel(buyer, kind, 1, true, signature);
            assertEq(escrow.saltsFrom(buyer, kind), 2);
        }
    }

    /* CANCELLED */

    function test_cancel_says_of_which_kind() public {
        for (uint256 i = 0; i < 2; i++) {
            vm.expectEmit(address(escrow));
            emit IEscrowBase.Cancelled(buyer, Numbered(i), 4, false);
            _cancel(Numbered(i), 4, false);
            vm.expectEmit(address(escrow));
            emit IEscrowBase.Cancelled(buyer, Numbered(i), 3, true);
            _cancel(Numbered(i), 3, true);
        }
    }

    function testFuzz_kinds_do_not_touch_each_other(uint64 salt, bool andOlder, bool calls) public {
        salt = uint64(bound(salt, 0, LAST - 1));
        Numbered kind = calls ? Numbered.Calls : Numbered.Orders;
        _cancel(kind, salt, andOlder);
        assertTrue(_isCancelled(kind, salt));
        assertFalse(_isCancelled(kind, salt + 1));
        assertEq(_isCancelled(kind, salt / 2), andOlder || salt == 0);
        assertEq(escrow.saltsFrom(buyer, kind), andOlder ? salt + 1 : 0);
        assertFalse(_isCancelled(_other(kind), salt));
        assertFalse(_isCancelled(_other(kind), 0));
        assertEq(escrow.saltsFrom(buyer, _other(kind)), 0);
        assertEq(escrow.saltsFrom(stranger, kind), 0);
    }

    function testFuzz_lowest_number_never_goes_back(uint64[4] memory salts, bool calls) public {
        Numbered kind = calls ? Numbered.Calls : Numbered.Orders;
        uint64 most = 0;
        for (uint256 i = 0; i < 4; i++) {
            salts[i] = uint64(bound(salts[i], 0, LAST - 1));
            _cancel(kind, salts[i], true);
            if (salts[i] + 1 > most) most = salts[i] + 1;
            assertEq(escrow.saltsFrom(buyer, kind), most);
        }
    }

    /// @dev Balance and fees of the account share a word with the lowest number of its orders.
    function test_cancel_moves_no_money() public {
        _cancel(Numbered.Orders, LAST - 1, true);
        _cancel(Numbered.Calls, LAST - 1, true);
        assertEq(escrow.balanceOf(buyer), FUNDS);
        assertEq(escrow.feesOf(buyer), 0);
    }
}
