// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Bid, IEscrowBase, LeaseKey, LeaseState, Match} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {BadWallet, OwnedWallet} from "../support/Wallets.sol";

/// @notice stopBySignature: who may sign, and what the signature binds. Purses: purseLeases.t.sol.
contract StopBySignatureTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;
    bytes32 private _terms;
    uint40 private _deadline;

    function setUp() public override {
        super.setUp();
        _terms = _termsHash(_ask(), _bid());
        _no = _open();
        _start = block.timestamp;
        _deadline = uint40(_start + 100);
    }

    function _signStop(uint256 key, bool again) private view returns (bytes memory) {
        return _sign(key, TypedData.stop(buyer, provider, _no, again, _deadline));
    }

    /// @dev Brought by a stranger.
    function _send(bool again, bytes memory signature) private {
        vm.prank(stranger);
        escrow.stopBySignature(_key(_no), again, _deadline, _terms, signature);
    }

    function _refuse(bool again, bytes memory signature) private {
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        _send(again, signature);
    }

    /* REFUSED */

    function test_others_cannot_sign_a_stop() public {
        (, uint256 otherKey) = makeAddrAndKey("other");
        uint256[2] memory keys = [providerKey, otherKey];
        for (uint256 i = 0; i < 2; i++) {
            _refuse(false, _signStop(keys[i], false));
            _refuse(true, _signStop(keys[i], true));
        }
    }

    function test_meter_of_other_terms_cannot_stop() public {
        _terms = keccak256("other");
        _refuse(false, _signStop(meterKey, false));
        _terms = 0;
        _refuse(false, _signStop(meterKey, false));
    }

    /// @dev The meter is the provider's, which may end a lease but not let the seat open again.
    function test_meter_cannot_mark() public {
        _refuse(true, _signStop(meterKey, true));
        _refuse(true, _signStop(meterKey, false));
        _assertState(_no, LeaseState.Active);
    }

    function test_bad_forms_of_a_signature() public {
        bytes memory good = _signStop(witnessKey, false);
        _refuse(false, "");
        _refuse(false, new bytes(65));
        _refuse(false, bytes.concat(good, hex"00"));
        (bytes32 r, bytes32 vs) = _compact(witnessKey, TypedData.stop(buyer, provider, _no, false, _deadline));
        _refuse(false, abi.encodePacked(r, vs));
        good[64] ^= 0x07; // 27 and 28 change places
        _refuse(false, good);
    }

    /// @dev A bad signature recovers to zero, which is nobody's witness or buyer.
    function test_signer_zero_stops_nothing() public {
        LeaseKey memory key = _key(_no);
        key.witness = address(0);
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.stopBySignature(key, false, _deadline, _terms, new bytes(65));
        key.buyer = address(0);
        _expect(IEscrowBase.InvalidSignature.selector, address(0));
        escrow.stopBySignature(key, false, _deadline, _terms, new bytes(65));
        key.leaseNo = bytes16(keccak256(abi.encode(_terms, address(0))));
        _expect(IEscrowBase.InvalidSignature.selector, address(0));
        escrow.stopBySignature(key, false, _deadline, _terms, new bytes(65));
    }

    function test_every_member_is_signed() public {
        uint256[2] memory keys = [witnessKey, buyerKey];
        for (uint256 i = 0; i < 10; i++) {
            bytes memory signature = _signStop(keys[i % 2], false);
            LeaseKey memory key = _key(_no);
            (bool again, uint40 deadline) = (false, _deadline);
            if (i / 2 == 0) key.buyer = stranger;
            if (i / 2 == 1) key.provider = stranger;
            if (i / 2 == 2) key.leaseNo = bytes16(uint128(1));
            if (i / 2 == 3) again = true;
            if (i / 2 == 4) deadline++;
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.InvalidSignature.selector, key.buyer));
            escrow.stopBySignature(key, again, deadline, _terms, signature);
        }
    }

    /// @dev The witness is not a member of `Stop`: another one in the key names a lease that is not there.
    function test_stop_of_another_witness_finds_no_lease() public {
        LeaseKey memory key = _key(_no);
        key.witness = stranger;
        bytes memory signature = _signStop(buyerKey, false);
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.None);
        escrow.stopBySignature(key, false, _deadline, _terms, signature);
    }

    function test_stop_on_another_chain_or_contract_cannot_stop() public {
        bytes memory signature = _signStop(witnessKey, false);
        vm.chainId(block.chainid + 1);
        _refuse(false, signature);
        bytes32 other = TypedData.domain(block.chainid, address(token));
        bytes32 digest = TypedData.digest(other, TypedData.stop(buyer, provider, _no, false, _deadline));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(witnessKey, digest);
        _refuse(false, abi.encodePacked(r, s, v));
    }

    function test_stop_after_its_deadline_cannot_stop() public {
        bytes memory signature = _signStop(witnessKey, false);
        vm.warp(_deadline + 1);
        _expect(IEscrowBase.SignatureExpired.selector, _deadline, _deadline + 1);
        _send(false, signature);
        vm.warp(_deadline);
        _send(false, signature);
        _assertState(_no, LeaseState.Stopped);
    }

    function test_used_signature_stops_nothing_more() public {
        bytes memory signature = _signStop(witnessKey, false);
        _send(false, signature);
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Stopped);
        _send(false, signature);
    }

    /* STOPPED */

    function _assertStopped(bool again) private view {
        _assertState(_no, LeaseState.Stopped);
        assertEq(_lease(_no).again, again);
        assertEq(_lease(_no).end, _start + 50);
        uint256 lock = (uint256(2.5e18) * 50 + 3599) / 3600;
        assertEq(_lease(_no).locked, lock);
        assertEq(escrow.balanceOf(buyer), FUNDS - lock);
        assertEq(escrow.capacityUsed(provider, 7), 0);
    }

    function test_buyer_witness_and_meter_stop_by_signature() public {
        uint256[3] memory keys = [buyerKey, witnessKey, meterKey];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 3; i++) {
            vm.warp(_start + 50);
            _send(false, _signStop(keys[i], false));
            _assertStopped(false);
            vm.revertToState(snapshot);
        }
    }

    function test_buyer_and_witness_mark_by_signature() public {
        uint256[2] memory keys = [buyerKey, witnessKey];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 2; i++) {
            vm.warp(_start + 50);
            bytes memory signature = _signStop(keys[i], true);
            vm.expectEmit(address(escrow));
            emit IEscrowBase.MarkedAgain(_no, buyer, provider);
            _send(true, signature);
            _assertStopped(true);
            vm.revertToState(snapshot);
        }
    }

    function test_only_the_meter_needs_the_terms() public {
        _terms = 0;
        uint256 snapshot = vm.snapshotState();
        vm.warp(_start + 50);
        _send(false, _signStop(witnessKey, false));
        _assertStopped(false);
        vm.revertToState(snapshot);
        vm.warp(_start + 50);
        _send(false, _signStop(buyerKey, false));
        _assertStopped(false);
    }

    /// @dev The buyer needs no signature at all if it calls, whatever it passes.
    function test_buyer_may_call_it_too() public {
        vm.warp(_start + 50);
        vm.prank(buyer);
        escrow.stopBySignature(_key(_no), true, _deadline, 0, "");
        _assertStopped(true);
    }

    /* CONTRACT ACCOUNTS */

    function _openFor(address account) private returns (bytes16 leaseNo) {
        _fund(account, FUNDS);
        Bid memory bid = _bid();
        bid.buyer = account;
        Match memory order = _match(_ask(), bid);
        vm.mockCall(account, abi.encodeWithSignature("isValidSignature(bytes32,bytes)"), abi.encode(bytes4(0x1626ba7e)));
        leaseNo = escrow.open(order);
        vm.clearMockedCalls();
        buyer = account;
    }

    function test_buyers_wallet_stops_by_its_owners_signature() public {
        address wallet = address(new OwnedWallet(buyer));
        _no = _openFor(wallet);
        bytes memory signature = _signStop(providerKey, true);
        _refuse(true, signature);
        vm.warp(_start + 50);
        _send(true, _signStop(buyerKey, true));
        _assertState(_no, LeaseState.Stopped);
        assertTrue(_lease(_no).again);
    }

    function test_bad_wallets_stop_nothing() public {
        address owner = buyer;
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            _no = _openFor(address(new BadWallet(BadWallet.Kind(kind))));
            bytes memory signature = _signStop(buyerKey, false);
            if (kind == uint256(BadWallet.Kind.BurnsGas)) vm.expectRevert(); // out of gas, or as below: both refuse
            else _expect(IEscrowBase.InvalidSignature.selector, buyer);
            escrow.stopBySignature{gas: 3_000_000}(_key(_no), false, _deadline, 0, signature);
            _assertState(_no, LeaseState.Active);
            buyer = owner;
        }
    }
}
