// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState, Match} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {BadWallet} from "../support/Wallets.sol";

contract OpenBatchTest is EscrowTest {
    function _orders(uint256 count) private view returns (Match[] memory orders) {
        orders = new Match[](count);
        for (uint256 i = 0; i < count; i++) {
            Ask memory ask = _ask();
            ask.node = uint24(i);
            orders[i] = _match(ask, _bidOf(uint64(i)));
        }
    }

    function test_too_many_reverts() public {
        Match[] memory orders = new Match[](201);
        _expect(IEscrowBase.BatchTooLarge.selector, 200, 201);
        escrow.openBatch(orders);
    }

    function test_nothing_opens_nothing() public {
        assertEq(escrow.openBatch(new Match[](0)), "");
    }

    /// @dev Bit i of byte i / 8, lowest first.
    function testFuzz_skips_exactly_what_fails(uint16 bad) public {
        Match[] memory orders = _orders(16);
        for (uint256 i = 0; i < 16; i++) {
            if (bad >> i & 1 == 1) orders[i].bidSignature[0] ^= 0x01;
        }
        bytes memory skipped = escrow.openBatch(orders);
        assertEq(skipped, abi.encodePacked(uint8(bad), uint8(bad >> 8)));
        for (uint256 i = 0; i < 16; i++) {
            bool opened = _lease(_leaseNo(orders[i].ask, orders[i].bid)).state == LeaseState.Active;
            assertEq(opened, bad >> i & 1 == 0);
            assertEq(_isUsed(buyer, uint64(i)), opened);
        }
    }

    function test_named_opener_is_the_sender_of_the_batch() public {
        Match[] memory orders = new Match[](1);
        Bid memory bid = _bid();
        bid.opener = stranger;
        orders[0] = _match(_ask(), bid);
        assertEq(escrow.openBatch(orders), hex"01");
        vm.prank(stranger);
        assertEq(escrow.openBatch(orders), hex"00");
    }

    function test_same_order_twice_opens_once() public {
        Match[] memory orders = new Match[](2);
        (orders[0], orders[1]) = (_match(_ask(), _bid()), _match(_ask(), _bid()));
        assertEq(escrow.openBatch(orders), hex"02");
    }

    function test_wallet_that_burns_gas_stops_nobody_else() public {
        Match[] memory orders = _orders(3);
        orders[1].ask.provider = address(new BadWallet(BadWallet.Kind.BurnsGas));
        uint256 before = gasleft();
        assertEq(escrow.openBatch(orders), hex"02");
        assertLt(before - gasleft(), 900_000);
    }

    /// @dev Orders whose calldata lies in reverse: each is then copied to the end of the calldata.
    function test_orders_in_any_layout() public {
        Match[] memory orders = _orders(2);
        bytes memory first = abi.encode(orders[0]);
        bytes memory second = abi.encode(orders[1]);
        uint256 length = second.length - 32; // abi.encode puts an offset before a dynamic struct
        bytes memory data = abi.encodePacked(
            escrow.openBatch.selector, uint256(0x20), uint256(2), uint256(0x40 + length), uint256(0x40)
        );
        data = bytes.concat(data, _tail(second), _tail(first));
        (bool ok, bytes memory answer) = address(escrow).call(data);
        assertTrue(ok);
        assertEq(abi.decode(answer, (bytes)), hex"00");
        assertEq(uint256(_lease(_leaseNo(orders[0].ask, orders[0].bid)).state), uint256(LeaseState.Active));
        assertEq(uint256(_lease(_leaseNo(orders[1].ask, orders[1].bid)).state), uint256(LeaseState.Active));
    }

    function _tail(bytes memory encoded) private pure returns (bytes memory tail) {
        tail = new bytes(encoded.length - 32);
        for (uint256 i = 0; i < tail.length; i++) {
            tail[i] = encoded[i + 32];
        }
    }

    function test_order_hashes_are_of_the_book() public view {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        assertEq(escrow.hashAsk(ask), TypedData.hash(ask));
        assertEq(escrow.hashBid(bid), TypedData.hash(bid));
    }
}
