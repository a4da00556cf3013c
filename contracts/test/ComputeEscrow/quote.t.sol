// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, IEscrowBase, Match, Prices, Quote} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice open with a quote: prices that the meter signed for one ask.
contract QuoteTest is EscrowTest {
    function _quoted(Prices memory prices) private view returns (Match memory order) {
        order = _match(_ask(), _bid());
        order.quote = Quote(TypedData.hash(order.ask), prices, uint40(block.timestamp));
        order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
    }

    function test_quote_sets_the_prices() public {
        bytes16 leaseNo = escrow.open(_quoted(Prices(3e9, 1, 0, 0, 7, 8)));
        assertEq(_lease(leaseNo).rate, 3e12 + 8000);
    }

    function test_quote_for_another_ask() public {
        Match memory order = _quoted(Prices(3e9, 0, 0, 0, 0, 0));
        bytes32 asked = TypedData.hash(order.ask);
        for (uint256 i = 0; i < 2; i++) {
            bytes32 other = i == 0 ? bytes32(uint256(asked) - 1) : bytes32(uint256(asked) + 1);
            order.quote.askHash = other;
            order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.QuoteForOtherAsk.selector, asked, other));
            escrow.open(order);
        }
    }

    function test_expired_quote() public {
        Match memory order = _quoted(Prices(3e9, 0, 0, 0, 0, 0));
        order.quote.expiry = uint40(block.timestamp - 1);
        order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
        _expect(IEscrowBase.OrderExpired.selector, block.timestamp - 1, block.timestamp);
        escrow.open(order);
    }

    function test_quote_below_a_floor() public {
        Ask memory ask = _ask();
        ask.floor = Prices(10, 11, 12, 13, 14, 15);
        for (uint256 i = 0; i < 6; i++) {
            uint64[6] memory p = [uint64(10), 11, 12, 13, 14, 15];
            p[i]--;
            Match memory order = _match(ask, _bid());
            order.quote =
                Quote(TypedData.hash(ask), Prices(p[0], p[1], p[2], p[3], p[4], p[5]), uint40(block.timestamp));
            order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
            _expect(IEscrowBase.QuoteBelowFloor.selector, 10 + i, 9 + i);
            escrow.open(order);
        }
    }

    function test_quote_by_another_key() public {
        Match memory order = _quoted(Prices(3e9, 0, 0, 0, 0, 0));
        order.quoteSignature = _sign(providerKey, TypedData.hash(order.quote));
        _expect(IEscrowBase.InvalidSignature.selector, meter);
        escrow.open(order);
    }

    function test_quote_of_changed_members() public {
        for (uint256 i = 0; i < 7; i++) {
            Match memory order = _quoted(Prices(3e9, 1, 1, 1, 1, 1));
            if (i == 0) order.quote.prices.gpuHour++;
            if (i == 1) order.quote.prices.cpuHour++;
            if (i == 2) order.quote.prices.memoryGibHour++;
            if (i == 3) order.quote.prices.storageGibHour++;
            if (i == 4) order.quote.prices.egressGib++;
            if (i == 5) order.quote.prices.unit++;
            if (i == 6) order.quote.expiry++;
            _expect(IEscrowBase.InvalidSignature.selector, meter);
            escrow.open(order);
        }
    }
}
