// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {console} from "forge-std/console.sol";

import {
    Ask,
    Bid,
    CloseData,
    LeaseKey,
    Match,
    Previous,
    Prices,
    Quote,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {OwnedWallet} from "../support/Wallets.sol";

/// @notice Makes a call with so much gas and no more.
contract Gauge {
    function call(address to, bytes calldata data, uint256 gas) external returns (bool ok) {
        (ok,) = to.call{gas: gas}(data);
    }
}

/// @notice What actions cost as whole transactions, in a steady state: the slots that last are not zero.
/// forge-config: default.isolate = true
contract GasTest is EscrowTest {
    uint256 private constant BUYERS = 100;

    bytes16[] private _leaseNos;
    address[] private _buyers;

    function setUp() public override {
        super.setUp();
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bid.salt = 100; // of the same word as later ones
        escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + 1000);
        _close(ask, bid, 900_000, 0, 0);
        vm.prank(provider);
        escrow.withdraw(provider, 1);
    }

    /// @dev Gas of a call as a transaction of its own.
    function _transact(bytes memory data) private returns (uint256 gas) {
        (bool ok, bytes memory answer) = address(escrow).call(data);
        gas = vm.lastCallGas().gasTotalUsed;
        assertTrue(ok, string(answer));
    }

    /// @dev As `_transact` for a batch of which nothing may be skipped.
    function _transactAll(bytes memory data) private returns (uint256 gas) {
        (bool ok, bytes memory answer) = address(escrow).call(data);
        gas = vm.lastCallGas().gasTotalUsed;
        assertTrue(ok, string(answer));
        bytes memory skipped = abi.decode(answer, (bytes));
        assertEq(skipped, new bytes(skipped.length), "skipped");
    }

    function _manyLeases(uint256 count, bool metered) private returns (Match[] memory orders) {
        orders = new Match[](count);
        for (uint256 i = 0; i < count; i++) {
            Ask memory ask;
            Bid memory bid;
            if (metered) (ask, bid) = _countedOrders();
            else (ask, bid) = (_ask(), _bid());
            (address account, uint256 key) = makeAddrAndKey(string(abi.encodePacked("buyer", i)));
            if (escrow.balanceOf(account) == 0) {
                _fund(account, FUNDS);
            }
            ask.gpuMilli = 1_000_000;
            bid.buyer = account;
            (buyer, buyerKey) = (account, key);
            // a first bid of each buyer flips another bit of the same nonce word
            bid.salt = 5;
            escrow.open(_match(ask, bid));
            bid = metered ? bid : _bid();
            bid.buyer = account;
            bid.salt = 6;
            orders[i] = _match(ask, bid);
            _leaseNos.push(_leaseNo(ask, bid));
            _buyers.push(account);
        }
    }

    /// @dev Says what it cost, and fails where that is more than it was.
    function _report(string memory action, uint256 gas, uint256 most) private pure {
        console.log(action, gas);
        assertLe(gas, most, action);
    }

    function test_gas_open() public {
        _report("open", _transact(abi.encodeCall(escrow.open, (_match(_ask(), _bid())))), 112_000);
    }

    function test_gas_open_batch() public {
        Match[] memory orders = _manyLeases(50, false);
        _report("open batch of 50, each", _transactAll(abi.encodeCall(escrow.openBatch, (orders))) / 50, 84_000);
    }

    function test_gas_settle() public {
        bytes16 leaseNo = _open();
        vm.warp(block.timestamp + 120);
        _settle(leaseNo, 60_000);
        _report("settle", _transactAll(abi.encodeCall(escrow.settle, (_single(_entry(leaseNo, 120_000))))), 42_800);
    }

    function test_gas_settle_batch() public {
        Match[] memory orders = _manyLeases(BUYERS, false);
        escrow.openBatch(orders);
        vm.warp(block.timestamp + 120);
        for (uint256 round = 1; round < 3; round++) {
            bytes memory entries = abi.encodePacked(provider, uint16(BUYERS));
            for (uint256 i = 0; i < BUYERS; i++) {
                bytes memory entry =
                    _entryBy(witnessKey, _buyers[i], provider, _leaseNos[i], uint64(round * 40_123 + i));
                entries = abi.encodePacked(entries, entry);
            }
            uint256 gas = _transactAll(abi.encodeCall(escrow.settle, (entries)));
            if (round == 2) _report("settle batch of 100, each", gas / BUYERS, 11_500);
        }
    }

    function test_gas_settle_metered_batch() public {
        Match[] memory orders = _manyLeases(BUYERS, true);
        escrow.openBatch(orders);
        vm.warp(block.timestamp + 120);
        for (uint256 round = 1; round < 3; round++) {
            bytes memory entries = abi.encodePacked(provider, uint16(BUYERS));
            for (uint256 i = 0; i < BUYERS; i++) {
                buyer = _buyers[i];
                bytes memory entry =
                    _meteredEntry(_leaseNos[i], uint64(round * 40_123 + i), uint32(1111 * round), uint32(222 * round));
                entries = abi.encodePacked(entries, entry);
            }
            uint256 gas = _transactAll(abi.encodeCall(escrow.settleMetered, (entries)));
            if (round == 2) _report("metered batch of 100, each", gas / BUYERS, 17_800);
        }
    }

    /// @dev Closes a lease that has settled 60 s, at `ms`.
    function _closeGas(uint64 ms) private returns (uint256) {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + 120);
        _settle(leaseNo, 60_000);
        CloseData memory data = _closeData(ask, bid, ms, 0, 0);
        (bytes32 meterR, bytes32 meterVs) = _compact(meterKey, TypedData.close(data));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(witnessKey, TypedData.close(data));
        return _transact(abi.encodeCall(escrow.close, (data, meterR, meterVs, witnessR, witnessVs)));
    }

    function test_gas_close_that_pays() public {
        _report("close that pays", _closeGas(90_000), 60_400);
    }

    function test_gas_close_of_what_is_settled() public {
        _report("close of what is settled", _closeGas(60_000), 55_000);
    }

    /// @dev A lease that has run for two minutes and settled one of them.
    function _running() private returns (bytes16 leaseNo) {
        leaseNo = _open();
        vm.warp(block.timestamp + 120);
        _settle(leaseNo, 60_000);
    }

    /// @dev As `_transact`, by one of the parties.
    function _transactAs(address sender, bytes memory data) private returns (uint256) {
        vm.prank(sender);
        return _transact(data);
    }

    function test_gas_stop() public {
        bytes memory call = abi.encodeCall(escrow.stop, (_key(_running()), false));
        _report("stop", _transactAs(buyer, call), 50_000);
    }

    function test_gas_refund() public {
        bytes memory call = abi.encodeCall(escrow.refund, (_key(_running())));
        vm.warp(block.timestamp + 4200 + SETTLE_WINDOW);
        _report("refund", _transact(call), 44_000);
    }

    function test_gas_deposit() public {
        token.transfer(buyer, 2e18);
        vm.prank(buyer);
        token.approve(address(escrow), 2e18);
        _report("deposit", _transactAs(buyer, abi.encodeCall(escrow.deposit, (1e18))), 56_400);
    }

    function test_gas_deposit_by_permit() public {
        token.transfer(buyer, 2e18);
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        for (uint256 nonce = 0; nonce < 2; nonce++) {
            bytes32 structHash = keccak256(abi.encode(typeHash, buyer, address(escrow), 1e18, nonce, type(uint256).max));
            bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(buyerKey, digest);
            bytes memory call = abi.encodeCall(escrow.depositWithPermit, (1e18, type(uint256).max, v, r, s));
            uint256 gas = _transactAs(buyer, call);
            if (nonce == 1) _report("deposit by permit", gas, 74_900);
        }
    }

    /* THE GAS OF ONE ITEM */

    uint256 private constant ITEM_GAS = 285_000;

    /// @dev Everything that makes an item dear: 32 tiers of which the last one fits, counted resources, a quote, a seat, and
    /// contract wallets as provider and as operator of the purse that buys.
    function _dearest(uint16 seat) private returns (Match memory order) {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        ask.provider = address(new OwnedWallet(provider));
        OwnedWallet operator = new OwnedWallet(buyer);
        vm.startPrank(buyer);
        bid.buyer = escrow.createPurse(address(operator), 1, type(uint40).max, 1000e18);
        vm.stopPrank();
        bid.limits = new TierLimit[](32);
        for (uint256 i = 0; i < 31; i++) {
            bid.limits[i] = TierLimit(bytes32(i + 1), 1, 1, 1);
        }
        bid.limits[31] = TierLimit(TIER, 10e12, 1e9, 1e9);
        (bid.nodes, bid.salt, ask.salt) = (2, 1000, 1000);
        order = _match(ask, bid);
        order.seat = seat;
        order.quote = Quote(TypedData.hash(ask), Prices(2.6e9, 0, 0, 0, 0.08e9, 0.001e9), type(uint40).max);
        order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
    }

    /// @dev The least gas with which the order opens, in a transaction of its own.
    function _leastGas(Match memory order) private returns (uint256 most) {
        Gauge gauge = new Gauge();
        bytes memory call = abi.encodeCall(escrow.open, (order));
        uint256 least = 50_000;
        most = 2_000_000;
        uint256 snapshot = vm.snapshotState();
        while (most - least > 50) {
            uint256 gas = (most + least) / 2;
            bool ok = gauge.call(address(escrow), call, gas);
            (least, most) = ok ? (least, gas) : (gas, most);
            vm.revertToState(snapshot);
        }
    }

    /// @dev As large as what the dearest order needs and 15 %, so that a wallet that burns gas costs others no more.
    function test_item_has_the_gas_of_the_dearest_order_and_15_percent() public {
        Match memory order = _dearest(0);
        uint256 first = _leastGas(order);
        console.log("first lease of a seat", first);

        escrow.open(order);
        bytes16 leaseNo = _leaseNo(order.ask, order.bid, order.quote.prices, 0);
        LeaseKey memory key = LeaseKey(order.bid.buyer, order.ask.provider, witness, leaseNo);
        vm.prank(witness);
        escrow.stop(key, true);
        order.previous = Previous(
            order.ask.provider, TypedData.hash(order.ask), TypedData.hash(order.quote.prices), order.ask.meter
        );
        order.quote.prices.gpuHour += 1;
        order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
        uint256 later = _leastGas(order);
        console.log("later lease of a seat", later);

        uint256 dearest = first > later ? first : later;
        assertLe(dearest * 115 / 100, ITEM_GAS);
        assertGe(dearest * 117 / 100, ITEM_GAS);

        Match[] memory orders = new Match[](1);
        orders[0] = order;
        assertEq(escrow.openBatch(orders), hex"00");
    }
}
