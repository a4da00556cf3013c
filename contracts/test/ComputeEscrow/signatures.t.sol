// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    IEscrowBase,
    LeaseState,
    Match,
    Numbered,
    Prices,
    Quote,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {BadWallet, OwnedWallet} from "../support/Wallets.sol";

/// @notice Signatures by the right key in forms that must not pass.
abstract contract BadForms is EscrowTest {
    uint256 private constant N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function _badForms(uint256 key, bytes32 structHash) internal view returns (bytes[] memory forms) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, _digest(structHash));
        (, bytes32 vs) = _compact(key, structHash);
        forms = new bytes[](9);
        forms[0] = abi.encodePacked(r, bytes32(N - uint256(s)), v == 27 ? uint8(28) : uint8(27)); // high s
        forms[1] = abi.encodePacked(r, s, v == 27 ? uint8(28) : uint8(27)); // wrong v
        forms[2] = abi.encodePacked(r, s, v - 27); // v of 0 or 1
        forms[3] = abi.encodePacked(r, s); // no v
        forms[4] = abi.encodePacked(r, vs); // compact
        forms[5] = abi.encodePacked(r, s, v, uint8(0)); // too long
        forms[6] = new bytes(65); // zeros
        forms[7] = ""; // nothing
        forms[8] = abi.encodePacked(r, bytes32(0), v); // no s
    }
}

/// @notice What signatures on orders bind, and which ones are refused. Entries, Stop and Close: with their actions.
contract SignaturesTest is BadForms {
    /* HASHES */

    /// forge-config: default.fuzz.runs = 10000
    /// forge-config: nightly.fuzz.runs = 50000
    function testFuzz_ask_hash_is_by_the_book(Ask memory ask) public view {
        assertEq(escrow.hashAsk(ask), TypedData.hash(ask));
    }

    function testFuzz_bid_hash_is_by_the_book(Bid memory bid, TierLimit[5] memory limits, uint8 count) public view {
        bid.limits = new TierLimit[](count % 6);
        for (uint256 i = 0; i < bid.limits.length; i++) {
            bid.limits[i] = limits[i];
        }
        assertEq(escrow.hashBid(bid), TypedData.hash(bid));
    }

    /// forge-config: default.fuzz.runs = 10000
    /// forge-config: nightly.fuzz.runs = 50000
    function testFuzz_quote_hash_is_by_the_book(Quote memory quote) public view {
        assertEq(escrow.hashQuote(quote), TypedData.hash(quote));
    }

    /// forge-config: default.fuzz.runs = 10000
    /// forge-config: nightly.fuzz.runs = 50000
    function testFuzz_prices_hash_is_by_the_book(Prices memory prices) public view {
        assertEq(escrow.hashPrices(prices), TypedData.hash(prices));
    }

    /// forge-config: default.fuzz.runs = 10000
    /// forge-config: nightly.fuzz.runs = 50000
    function testFuzz_lease_number_is_half_a_hash(bytes32[3] memory hashes, uint16 seat, address meter_) public view {
        bytes32 termsHash = keccak256(abi.encode(hashes[0], hashes[1], hashes[2], seat));
        bytes16 leaseNo = escrow.leaseNoOf(hashes[0], hashes[1], hashes[2], seat, meter_);
        assertEq(leaseNo, bytes16(keccak256(abi.encode(termsHash, meter_))));
    }

    /// @dev A value that does not fit its type is no order at all.
    function test_wide_values_are_refused() public {
        bytes memory data = abi.encodeCall(escrow.hashAsk, (_ask()));
        data[4 + 3 * 32] = 0x01; // the top byte of `node`, a uint24
        (bool ok,) = address(escrow).call(data);
        assertFalse(ok);
    }

    /* EVERY MEMBER IS SIGNED */

    function _changeAsk(Ask memory ask, uint256 i) private view {
        if (i == 0) ask.meter = stranger;
        if (i == 1) ask.opener = address(this);
        if (i == 2) ask.node++;
        if (i == 3) ask.tier = "A100";
        if (i == 4) ask.gpuMilli += 1000;
        if (i == 5) ask.cpuMilli++;
        if (i == 6) ask.memoryMib++;
        if (i == 7) ask.storageMib++;
        if (i == 8) ask.floor.gpuHour--;
        if (i == 9) ask.floor.cpuHour++;
        if (i == 10) ask.floor.memoryGibHour++;
        if (i == 11) ask.floor.storageGibHour++;
        if (i == 12) ask.floor.egressGib++;
        if (i == 13) ask.floor.unit++;
        if (i == 14) ask.minSeconds--;
        if (i == 15) ask.maxSeconds++;
        if (i == 16) ask.startLimitSeconds--;
        if (i == 17) ask.unit = "token";
        if (i == 18) ask.startsAt++;
        if (i == 19) ask.flags = 1;
        if (i == 20) ask.maxFeeBps++;
        if (i == 21) ask.expiry++;
        if (i == 22) ask.salt++;
        if (i == 23) ask.noticeSeconds++;
    }

    function test_change_of_any_member_of_an_ask() public {
        for (uint256 i = 0; i < 24; i++) {
            Match memory order = _match(_ask(), _bid());
            _changeAsk(order.ask, i);
            assertNotEq(TypedData.hash(order.ask), TypedData.hash(_ask()), "changed");
            _expect(IEscrowBase.InvalidSignature.selector, provider);
            escrow.open(order);
        }
    }

    function test_change_of_an_asks_provider() public {
        Match memory order = _match(_ask(), _bid());
        order.ask.provider = stranger;
        _expect(IEscrowBase.InvalidSignature.selector, stranger);
        escrow.open(order);
    }

    function _changeBid(Bid memory bid, uint256 i) private view {
        if (i == 0) bid.witness = stranger;
        if (i == 1) bid.opener = address(this);
        if (i == 2) bid.jobHash = 0;
        if (i == 3) bid.limits[0].rate++;
        if (i == 4) bid.limits[0].egressGib++;
        if (i == 5) bid.limits[0].unit++;
        if (i == 6) bid.limits = _two(bid.limits[0], TierLimit("A100", 1, 1, 1));
        if (i == 7) bid.limits = _two(TierLimit("A100", 1, 1, 1), bid.limits[0]);
        if (i == 8) bid.gpuMilli += 1000;
        if (i == 9) bid.cpuMilli++;
        if (i == 10) bid.memoryMib++;
        if (i == 11) bid.storageMib++;
        if (i == 12) bid.egressMib++;
        if (i == 13) bid.unit = "token";
        if (i == 14) bid.maxSeconds++;
        if (i == 15) bid.budget++;
        if (i == 16) bid.flags = 1;
        if (i == 17) bid.maxFeeBps++;
        if (i == 18) bid.expiry++;
        if (i == 19) bid.salt++;
        if (i == 20) bid.maxStartSeconds++;
        if (i == 21) bid.minNoticeSeconds++;
    }

    function _two(TierLimit memory a, TierLimit memory b) private pure returns (TierLimit[] memory limits) {
        limits = new TierLimit[](2);
        (limits[0], limits[1]) = (a, b);
    }

    function test_change_of_any_member_of_a_bid() public {
        for (uint256 i = 0; i < 22; i++) {
            Match memory order = _match(_ask(), _bid());
            _changeBid(order.bid, i);
            assertNotEq(TypedData.hash(order.bid), TypedData.hash(_bid()), "changed");
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            escrow.open(order);
        }
    }

    function test_change_of_a_bids_buyer() public {
        Match memory order = _match(_ask(), _bid());
        order.bid.buyer = stranger;
        _expect(IEscrowBase.InvalidSignature.selector, stranger);
        escrow.open(order);
    }

    function test_change_of_a_bids_tier() public {
        Match memory order = _match(_ask(), _bid());
        (order.ask.tier, order.bid.limits[0].tier) = ("A100", "A100");
        order.askSignature = _sign(providerKey, TypedData.hash(order.ask));
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.open(order);
    }

    function test_change_of_a_bids_units() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        Match memory order = _match(ask, bid);
        order.bid.units++;
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.open(order);
    }

    /* WRONG DOMAIN, WRONG FORM */

    function test_orders_of_another_chain() public {
        Match memory order = _match(_ask(), _bid());
        vm.chainId(block.chainid + 1);
        _expect(IEscrowBase.InvalidSignature.selector, provider);
        escrow.open(order);
    }

    function test_orders_of_another_contract() public {
        Match memory order = _match(_ask(), _bid());
        escrow = _newEscrow(address(token), FEE_BPS);
        _fund(buyer, FUNDS);
        _expect(IEscrowBase.InvalidSignature.selector, provider);
        escrow.open(order);
    }

    function test_signature_of_the_other_order() public {
        Match memory order = _match(_ask(), _bid());
        order.askSignature = _sign(providerKey, TypedData.hash(order.bid));
        _expect(IEscrowBase.InvalidSignature.selector, provider);
        escrow.open(order);
    }

    function test_bad_forms_of_order_signatures() public {
        Match memory order = _match(_ask(), _bid());
        bytes[] memory forms = _badForms(providerKey, TypedData.hash(order.ask));
        bytes memory good = order.askSignature;
        for (uint256 i = 0; i < forms.length; i++) {
            order.askSignature = forms[i];
            _expect(IEscrowBase.InvalidSignature.selector, provider);
            escrow.open(order);
        }
        order.askSignature = good;
        forms = _badForms(buyerKey, TypedData.hash(order.bid));
        for (uint256 i = 0; i < forms.length; i++) {
            order.bidSignature = forms[i];
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            escrow.open(order);
        }
    }

    function test_bad_forms_of_quote_signatures() public {
        Match memory order = _match(_ask(), _bid());
        order.quote = Quote(TypedData.hash(order.ask), order.ask.floor, uint40(block.timestamp));
        bytes[] memory forms = _badForms(meterKey, TypedData.hash(order.quote));
        for (uint256 i = 0; i < forms.length; i++) {
            if (forms[i].length == 0) continue; // no signature: no quote
            order.quoteSignature = forms[i];
            _expect(IEscrowBase.InvalidSignature.selector, meter);
            escrow.open(order);
        }
    }

    /* CONTRACT WALLETS */

    function test_wallets_sign_orders_by_their_owners() public {
        OwnedWallet buying = new OwnedWallet(buyer);
        OwnedWallet providing = new OwnedWallet(provider);
        _fund(address(buying), FUNDS);
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        (ask.provider, bid.buyer) = (address(providing), address(buying));
        bytes16 leaseNo = escrow.open(_match(ask, bid));

        vm.warp(block.timestamp + 1440);
        (buyer, provider) = (address(buying), address(providing));
        assertTrue(_settle(leaseNo, 1_440_000));
        vm.prank(providing.OWNER());
        providing.execute(address(escrow), abi.encodeCall(escrow.withdraw, (stranger, 0.975e18)));
        assertEq(token.balanceOf(stranger), 0.975e18);
        vm.prank(buying.OWNER());
        buying.execute(address(escrow), abi.encodeCall(escrow.stop, (_key(leaseNo), true)));
        _assertState(leaseNo, LeaseState.Stopped);
    }

    function test_wallet_owned_by_another() public {
        OwnedWallet buying = new OwnedWallet(stranger);
        _fund(address(buying), FUNDS);
        Bid memory bid = _bid();
        bid.buyer = address(buying);
        Match memory order = _match(_ask(), bid);
        _expect(IEscrowBase.InvalidSignature.selector, address(buying));
        escrow.open(order);
    }

    function test_bad_wallets_are_refused() public {
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            address wallet = address(new BadWallet(BadWallet.Kind(kind)));
            Ask memory ask = _ask();
            ask.provider = wallet;
            Match memory order = _match(ask, _bid());
            vm.expectRevert();
            escrow.open{gas: 3_000_000}(order);
            if (kind == uint256(BadWallet.Kind.BurnsGas)) continue; // out of gas, or this error: both refuse
            _expect(IEscrowBase.InvalidSignature.selector, wallet);
            escrow.open(order);
        }
    }
}

/// @notice What signatures on Cancel bind, and which ones are refused.
contract ConsentTest is BadForms {
    function _expectRefusedOf(address account) private {
        _expect(IEscrowBase.InvalidSignature.selector, account);
    }

    /* CANCEL */

    function testFuzz_every_member_of_a_cancel_is_signed(address account, uint64 salt, bool andOlder) public {
        vm.assume(account != buyer && account.code.length == 0 && account != address(this));
        salt = uint64(bound(salt, 0, type(uint64).max - 2));
        bytes memory signature = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, salt, andOlder));
        _expectRefusedOf(account);
        escrow.cancel(account, Numbered.Orders, salt, andOlder, signature);
        _expectRefusedOf(buyer);
        escrow.cancel(buyer, Numbered.Orders, salt + 1, andOlder, signature);
        _expectRefusedOf(buyer);
        escrow.cancel(buyer, Numbered.Orders, salt, !andOlder, signature);
        _expectRefusedOf(buyer);
        escrow.cancel(buyer, Numbered.Calls, salt, andOlder, signature);
        escrow.cancel(buyer, Numbered.Orders, salt, andOlder, signature);
        (, bool cancelled) = escrow.saltState(buyer, Numbered.Orders, salt);
        assertTrue(cancelled);
    }

    function test_cancel_on_another_chain() public {
        bytes memory signature = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, true));
        vm.chainId(block.chainid + 1);
        _expectRefusedOf(buyer);
        escrow.cancel(buyer, Numbered.Orders, 1, true, signature);
    }

    function test_cancel_on_another_contract() public {
        bytes memory signature = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, true));
        escrow = _newEscrow(address(token), FEE_BPS);
        _expectRefusedOf(buyer);
        escrow.cancel(buyer, Numbered.Orders, 1, true, signature);
    }

    function test_bad_forms_of_a_cancels_signature() public {
        bytes[] memory forms = _badForms(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, true));
        for (uint256 i = 0; i < forms.length; i++) {
            _expectRefusedOf(buyer);
            escrow.cancel(buyer, Numbered.Orders, 1, true, forms[i]);
        }
    }

    function test_wallet_cancels_by_its_owners_signature() public {
        address wallet = address(new OwnedWallet(buyer));
        bytes memory signature = _sign(buyerKey, TypedData.cancel(wallet, Numbered.Orders, 1, true));
        _expectRefusedOf(buyer); // of the owner it is no cancel
        escrow.cancel(buyer, Numbered.Orders, 1, true, signature);
        escrow.cancel(wallet, Numbered.Orders, 1, true, signature);
        assertEq(escrow.saltsFrom(wallet, Numbered.Orders), 2);
        signature = _sign(providerKey, TypedData.cancel(wallet, Numbered.Orders, 2, true));
        _expectRefusedOf(wallet);
        escrow.cancel(wallet, Numbered.Orders, 2, true, signature);
    }

    function test_bad_wallets_cancel_nothing() public {
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            address wallet = address(new BadWallet(BadWallet.Kind(kind)));
            bytes memory signature = _sign(buyerKey, TypedData.cancel(wallet, Numbered.Orders, 1, true));
            if (kind == uint256(BadWallet.Kind.BurnsGas)) vm.expectRevert(); // out of gas, or as below: both refuse
            else _expectRefusedOf(wallet);
            escrow.cancel{gas: 3_000_000}(wallet, Numbered.Orders, 1, true, signature);
            assertEq(escrow.saltsFrom(wallet, Numbered.Orders), 0);
        }
    }
}
