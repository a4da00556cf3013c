// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState, Match, Numbered, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {BadWallet, OwnedWallet} from "../support/Wallets.sol";

/// @notice Accounts with a key and delegated code (EIP-7702): the key keeps its word, whatever the code answers.
contract DelegatedTest is EscrowTest {
    /// @dev Code that answers in every bad way, and one that answers well for another key.
    function _implementation(uint256 kind) private returns (address) {
        if (kind > uint256(type(BadWallet.Kind).max)) return address(new OwnedWallet(stranger));
        return address(new BadWallet(BadWallet.Kind(kind)));
    }

    function _delegate(address account, address implementation) private {
        vm.etch(account, bytes.concat(hex"ef0100", bytes20(implementation)));
    }

    function test_key_opens_stops_cancels_tops_up_and_withdraws_whatever_the_code() public {
        uint256 snapshot = vm.snapshotState();
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max) + 1; kind++) {
            address implementation = _implementation(kind);
            _delegate(buyer, implementation);
            _delegate(provider, implementation);
            assertEq(buyer.code.length, 23);
            _live();
            vm.revertToState(snapshot);
        }
    }

    /// @dev All that the keys of buyer and provider sign, brought by a stranger.
    function _live() private {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        uint40 deadline = type(uint40).max;
        Relay memory relay = Relay(1, deadline, address(0), 3);
        vm.startPrank(stranger);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        bytes memory signature = _sign(buyerKey, TypedData.topUp(buyer, provider, leaseNo, 60, relay));
        escrow.topUpBySignature(ask, bid, TypedData.hash(ask.floor), 0, 60, relay, signature);
        assertEq(_lease(leaseNo).fundedSeconds, 4260);
        signature = _sign(buyerKey, TypedData.stop(buyer, provider, leaseNo, true, deadline));
        escrow.stopBySignature(_key(leaseNo), true, deadline, 0, signature);
        _assertState(leaseNo, LeaseState.Stopped);
        assertTrue(_lease(leaseNo).again);
        signature = _sign(providerKey, TypedData.cancel(provider, Numbered.Orders, 5, true));
        escrow.cancel(provider, Numbered.Orders, 5, true, signature);
        assertEq(escrow.saltsFrom(provider, Numbered.Orders), 6);
        relay.salt = 2;
        signature = _sign(buyerKey, TypedData.withdraw(buyer, stranger, 10, relay));
        escrow.withdrawBySignature(buyer, stranger, 10, relay, signature);
        assertEq(token.balanceOf(stranger), 7);
        assertEq(escrow.balanceOf(stranger), 6);
        vm.stopPrank();
    }

    /// @dev As a real transaction of type 4 sets it up.
    function test_delegation_by_a_transaction_changes_nothing() public {
        vm.signAndAttachDelegation(_implementation(uint256(BadWallet.Kind.Reverts)), buyerKey);
        _live();
        assertEq(buyer.code.length, 23, "it was delegated");
    }

    function test_account_calls_by_itself() public {
        _delegate(buyer, _implementation(uint256(BadWallet.Kind.SaysNo)));
        vm.startPrank(buyer);
        escrow.withdraw(stranger, 5);
        escrow.cancel(buyer, Numbered.Orders, 1, false, "");
        assertEq(token.balanceOf(stranger), 5);
    }

    function _refuse(Match memory order) private {
        _expect(IEscrowBase.InvalidSignature.selector, order.bid.buyer);
        escrow.open(order);
    }

    /// @dev Code that is a wallet speaks for the account as any contract does.
    function test_code_may_sign_besides_the_key() public {
        (address owner, uint256 ownerKey) = makeAddrAndKey("owner of the code");
        Match memory order = _match(_ask(), _bid());
        order.bidSignature = _sign(ownerKey, TypedData.hash(order.bid));
        _refuse(order); // no code yet
        _delegate(buyer, address(new OwnedWallet(owner)));
        escrow.open(order);
        order = _match(_ask(), _bidOf(2));
        order.bidSignature = _sign(providerKey, TypedData.hash(order.bid));
        _refuse(order);
        vm.etch(buyer, ""); // the delegation is taken back
        order.bidSignature = _sign(ownerKey, TypedData.hash(order.bid));
        _refuse(order);
    }

    function test_other_keys_do_not_sign_for_a_delegated_account() public {
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            if (kind == uint256(BadWallet.Kind.BurnsGas)) continue; // out of gas: refused another way
            _delegate(buyer, _implementation(kind));
            Match memory order = _match(_ask(), _bid());
            order.bidSignature = _sign(providerKey, TypedData.hash(order.bid));
            _refuse(order);
        }
    }
}
